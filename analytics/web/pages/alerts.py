"""Alerts: what fires, acknowledged and muted from here; rules that are kept in the table, tried and saved."""

import json
import time
import tomllib
from functools import partial
from typing import Any

from fastapi import Request
from nicegui import ui

from analytics.alerts.conditions import Subject, condition
from analytics.alerts.rules import AnyRule, of_json
from analytics.alerts.state import sentence
from analytics.alerts.store import Store
from analytics.web import frame
from analytics.web.asking import Asker
from ingest.clickhouse.client import Client
from telemetry.errors import ConfigError

BY = "dashboard"
MUTE_S = 3600
SHOWN_MAX = 5
TEMPLATES = {
    "threshold": 'metric = "temperature"\nabove = 90\nclear = 85\nfor_s = 300',
    "rate": 'metric = "level"\nbelow = -0.5\nover_s = 600\nper_s = 3600',
    "silence": 'of = "device"\nmatch = "*"\nafter_s = 900',
    "anomaly": 'metric = "power"\nweeks = 8\ndifference_min = 0',
    "dead_letters": 'gateway = "*"\nabove = 0\nover_s = 3600',
}


async def build(asker: Asker, _: Request) -> None:
    """Fill the page."""
    trouble = frame.Trouble()
    with ui.element("section").classes("card"):
        ui.html("<h2>Now</h2>", sanitize=False)
        firing = ui.element("div").style("width:100%;display:flex;flex-direction:column;gap:.75rem")
    with ui.element("section").classes("card"):
        ui.html("<h2>Over, in the last 7 days</h2>", sanitize=False)
        over = frame.part().classes("scroll")
    with ui.element("section").classes("card"):
        ui.html(
            "<h2>Rules kept here</h2><p class='small soft'>Rules of alerts.toml count beside these, and more if a name"
            " is the same. <code>fieldline alerts run</code> asks both and tells the channels of its config.</p>",
            sanitize=False,
        )
        rules = ui.element("div").style("width:100%;display:flex;flex-direction:column;gap:.5rem")
    _editor(asker, trouble)
    shown: list[Any] = []

    async def refresh() -> None:
        found = (await asker.named("web_alerts")).records
        kept = (await asker.named("web_alert_rules")).records
        if shown == [found, kept]:
            return
        shown[:] = [found, kept]
        _firing(firing, [row for row in found if row["state"] == "firing"], act)
        over.content = _over([row for row in found if row["state"] != "firing"])
        _rules(rules, kept, remove)

    async def act(kind: str, row: dict[str, Any], until_s: int) -> None:
        subject = Subject(row["device"], row["metric"], row["gateway"])
        now_ms = time.time_ns() // 1_000_000
        until_ms = now_ms + until_s * 1000 if kind == "muted" else 0
        async with trouble.told():
            await asker.act(lambda client: Store(client).say(kind, row["rule"], subject, BY, now_ms, until_ms))
            await refresh()

    async def remove(name: str) -> None:
        async with trouble.told():
            await asker.act(lambda client: Store(client).set_rule(name, None, BY, time.time_ns() // 1_000_000))
            await refresh()

    await frame.live(refresh, trouble)


def _firing(box: ui.element, found: list[dict[str, Any]], act: Any) -> None:
    box.clear()
    with box:
        if not found:
            ui.html('<p class="empty">Nothing fires.</p>', sanitize=False)
        for row in found:
            is_muted = row["muted_until"].timestamp() > time.time()
            kind = "bad" if row["severity"] == "critical" else ""
            said = [f"since {frame.when(row['since'])} UTC"]
            said += [f"acknowledged by {frame.safe(row['acknowledged_by'])}"] if row["acknowledged_by"] else []
            said += [f"muted until {frame.when(row['muted_until'])} UTC"] if is_muted else []
            with ui.element("div").classes("bar"):
                ui.html(
                    f'<b class="{kind}">{frame.safe(row["severity"])}</b> · <b>{frame.safe(row["rule"])}</b><br>'
                    f'<span class="wrap">{frame.safe(row["text"])}</span><br>'
                    f'<span class="small soft">{" · ".join(said)}</span>',
                    sanitize=False,
                ).classes("grow")
                about = frame.safe(f"{row['rule']}, {row['device'] or row['gateway']}")
                if not row["acknowledged_by"]:
                    frame.button("Acknowledge", partial(act, "acknowledged", row, 0)).props(
                        f'aria-label="Acknowledge {about}"'
                    )
                text = "Unmute" if is_muted else "Mute for an hour"
                frame.button(text, partial(act, "muted", row, 0 if is_muted else MUTE_S)).props(
                    f'aria-label="{text}: {about}"'
                )


def _over(found: list[dict[str, Any]]) -> str:
    if not found:
        return '<p class="empty">No alert has ended in the last 7 days.</p>'
    rows = [
        (frame.when(row["since"]), frame.safe(row["rule"]), f'<span class="wrap">{frame.safe(row["text"])}</span>')
        for row in found
    ]
    return frame.table(("Since (UTC)", "Rule", "What"), rows)


def _rules(box: ui.element, kept: list[dict[str, Any]], remove: Any) -> None:
    box.clear()
    with box:
        if not kept:
            ui.html('<p class="empty">No rules are kept here yet. Write one below.</p>', sanitize=False)
        for row in kept:
            with ui.element("div").classes("bar"):
                said = f"by {frame.safe(row['changed_by'])}, {frame.when(row['changed_at'])} UTC"
                ui.html(
                    f'<b>{frame.safe(row["name"])}</b> <span class="small soft">{said}</span><br>'
                    f'<code class="wrap">{frame.safe(row["rule"])}</code>',
                    sanitize=False,
                ).classes("grow")
                frame.button("Remove", partial(remove, row["name"])).props(
                    f'aria-label="Remove the rule {frame.safe(row["name"])}"'
                )


def _editor(asker: Asker, trouble: frame.Trouble) -> None:
    with ui.element("section").classes("card"):
        ui.html(
            "<h2>A rule</h2><p class='small soft'>As in alerts.toml, one rule. What is saved under a name that is there"
            " replaces it.</p>",
            sanitize=False,
        )
        with ui.element("div").classes("bar"):
            name = ui.input("Name", value="").props("outlined dense maxlength=128").classes("grow")
            kind = ui.select(list(TEMPLATES), value="threshold", label="Kind").props("outlined dense")
            severity = ui.select(["info", "warning", "critical"], value="warning", label="Severity").props(
                "outlined dense"
            )
        text = (
            ui.textarea("Keys (TOML)", value=TEMPLATES["threshold"])
            .props('outlined autogrow spellcheck=false input-style="font-family:var(--mono)"')
            .style("width:100%")
        )
        kind.on_value_change(lambda event: text.set_value(TEMPLATES[event.value]))
        outcome = frame.part()

        def written() -> AnyRule:
            try:
                keys = tomllib.loads(text.value)
            except tomllib.TOMLDecodeError as error:
                raise ConfigError(f"The keys are not valid TOML: {error}") from error
            given = {"name": name.value.strip(), "kind": kind.value, "severity": severity.value, **keys}
            try:
                return of_json(json.dumps(given, default=str))
            except ConfigError as error:
                raise ConfigError(str(error).replace(f"{kind.value}.", "").replace("\n", "; ")) from error

        async def check() -> None:
            async with trouble.told("rule"):
                rule = written()
                outcome.content = await asker.act(lambda client: _tried(client, rule))

        async def save() -> None:
            async with trouble.told("rule"):
                rule = written()
                now_ms = time.time_ns() // 1_000_000
                await asker.act(lambda client: Store(client).set_rule(rule.name, rule, BY, now_ms))
                outcome.content = f'<p class="small">Saved {frame.safe(rule.name)}.</p>'

        with ui.element("div").classes("bar"):
            frame.button("Try it", check)
            frame.button("Save", save, strong=True)


def _tried(client: Client, rule: AnyRule) -> str:
    """What a rule sees now."""
    found = condition(rule, time.time_ns() // 1_000_000).ask(client)
    firing = sorted((each for each in found if each.fires), key=lambda each: each.subject)
    if not found:
        return '<p class="small">There is nothing it could look at now: check its names, or wait for readings.</p>'
    said = "".join(f"<li>{frame.safe(sentence(rule, each))}</li>" for each in firing[:SHOWN_MAX])
    more = f"<li>and {len(firing) - SHOWN_MAX:,} more</li>" if len(firing) > SHOWN_MAX else ""
    counted = f"It sees {len(found):,}, and would fire for {len(firing):,}."
    return f'<p class="small">{counted}</p><ul class="small">{said}{more}</ul>'

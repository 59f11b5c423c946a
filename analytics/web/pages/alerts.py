"""Alerts: what fires, to acknowledge and mute; the rules that are kept in the table, to edit; what has happened."""

import asyncio
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from fastapi import Request
from nicegui import ui

from analytics.alerts.conditions import Subject
from analytics.alerts.rules import of_json
from analytics.alerts.store import Store
from analytics.web import frame
from analytics.web.asking import Asker
from analytics.web.rule_card import BY, RuleCard
from analytics.web.rule_form import described
from telemetry.errors import ConfigError

MUTES = {3600: "1 hour", 28_800: "8 hours", 86_400: "1 day", 604_800: "1 week"}
HISTORY_PER_PAGE = 15
_SAID = {"firing": "began", "resolved": "is over"}
_KEPT = (
    "<h2>Rules kept here</h2><p class='small soft'>Rules of alerts.toml count beside these, and more if a name is the "
    "same. <code>fieldline alerts run</code> asks both and tells the channels of its config.</p>"
)


async def build(asker: Asker, _: Request) -> None:
    """Fill the page."""
    page = _Alerts(asker)
    await frame.live(page.refresh, page.trouble)
    ui.timer(0, page.form.names, once=True)


class _Alerts:
    """One open page."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._in_turn = asyncio.Lock()
        self._shown: list[Any] = []
        self._of: dict[str, str] = {}
        self._skip = 0
        self.trouble = frame.Trouble()
        with ui.element("section").classes("card"):
            with ui.element("div").classes("bar"):
                ui.html("<h2>Now</h2>", sanitize=False).classes("grow")
                self._mute_s = (
                    ui.select(MUTES, value=3600, label="Mute means for").props("outlined dense").classes("choice")
                )
            self._firing = ui.element("div").classes("rows")
        with ui.element("section").classes("card"):
            ui.html(_KEPT, sanitize=False)
            self._rules = ui.element("div").classes("rows")
        self.form = RuleCard(asker, self.refresh)
        with ui.element("section").classes("card").props("id=history"):
            with ui.element("div").classes("bar"):
                self._about = ui.html("<h2>History</h2>", sanitize=False).classes("grow")
                self._all = frame.button("Of all", self._history_of_all)
            self._history = frame.part().classes("scroll")
            with ui.element("div").classes("bar") as self._paging:
                frame.button("Later", partial(self._turn, -HISTORY_PER_PAGE))
                frame.button("Earlier", partial(self._turn, HISTORY_PER_PAGE))
        self._all.visible = self._paging.visible = False

    async def refresh(self) -> None:
        """What fires, which rules there are, and what has happened."""
        async with self._in_turn:  # else one that began before a change could show the state before it
            await self._refresh()

    async def _refresh(self) -> None:
        found = [row for row in (await self._asker.named("web_alerts")).records if row["state"] == "firing"]
        kept = (await self._asker.named("web_alert_rules")).records
        mutes = dict((await self._asker.named("web_alert_mutes")).rows)
        if self._shown != [found, kept, mutes]:
            self._shown[:] = [found, kept, mutes]
            self._show_firing(found)
            self._show_rules(kept, mutes)
        events = (await self._asker.named("web_alert_history", **self._of, skip=self._skip)).records
        self._history.content = _events(events, with_skip=bool(self._skip))
        self._paging.visible = bool(self._skip) or len(events) == HISTORY_PER_PAGE

    def _show_firing(self, found: list[dict[str, Any]]) -> None:
        self._firing.clear()
        with self._firing:
            if not found:
                ui.html('<p class="empty">Nothing fires.</p>', sanitize=False)
            for row in found:
                is_muted = row["muted_until"].timestamp() > time.time()
                with ui.element("div").classes("bar"):
                    ui.html(_alert(row, is_muted=is_muted), sanitize=False).classes("grow")
                    about = f"{row['rule']}, {row['device'] or row['gateway']}"
                    subject = Subject(row["device"], row["metric"], row["gateway"])
                    if not row["acknowledged_by"]:
                        _named("Acknowledge", about, partial(self._say, "acknowledged", row["rule"], subject))
                    _named(*_mute(is_muted=is_muted), about, partial(self._mute, row["rule"], subject, is_muted))
                    _named("History", about, partial(self._history_of, row["rule"], subject))

    def _show_rules(self, kept: list[dict[str, Any]], mutes: dict[str, Any]) -> None:
        self._rules.clear()
        with self._rules:
            if not kept:
                ui.html('<p class="empty">No rule is kept here yet. Make one below.</p>', sanitize=False)
            for row in kept:
                name, until = row["name"], mutes.get(row["name"])
                try:
                    rule = of_json(row["rule"])
                    said = f"fires if {described(rule)} · {rule.severity} · tells {', '.join(rule.notify)}"
                except ConfigError as error:
                    rule, said = None, f"cannot be used: {error}"
                with ui.element("div").classes("bar"):
                    muted = f'<br><span class="small warn">muted until {frame.when(until)} UTC</span>' if until else ""
                    ui.html(
                        f'<b>{frame.safe(name)}</b><br><span class="small wrap">{frame.safe(said)}</span>{muted}',
                        sanitize=False,
                    ).classes("grow")
                    if rule is not None:
                        _named("Edit", name, partial(self.form.edit, rule))
                    _named(*_mute(is_muted=bool(until)), name, partial(self._mute, name, Subject(), bool(until)))
                    _named("Remove", name, partial(self._remove, name))

    async def _say(self, kind: str, rule: str, subject: Subject, until_ms: int = 0) -> None:
        async with self.trouble.told():
            await self._asker.act(lambda client: Store(client).say(kind, rule, subject, BY, _now_ms(), until_ms))
            await self.refresh()

    async def _mute(self, rule: str, subject: Subject, is_muted: bool) -> None:
        until_ms = 0 if is_muted else _now_ms() + self._mute_s.value * 1000
        await self._say("muted", rule, subject, until_ms)

    async def _remove(self, name: str) -> None:
        async with self.trouble.told():
            await self._asker.act(lambda client: Store(client).set_rule(name, None, BY, _now_ms()))
            await self.refresh()

    async def _history_of(self, rule: str, subject: Subject) -> None:
        self._of, self._all.visible = {"rule": rule, **subject._asdict()}, True
        self._about.content = f"<h2>History of {frame.safe(rule)}, {frame.safe(subject)}</h2>"
        ui.run_javascript("document.getElementById('history').scrollIntoView()")
        await self._turn(-self._skip)

    async def _history_of_all(self) -> None:
        self._of, self._all.visible = {}, False
        self._about.content = "<h2>History</h2>"
        await self._turn(-self._skip)

    async def _turn(self, by: int) -> None:
        self._skip = max(self._skip + by, 0)
        async with self.trouble.told():
            await self.refresh()


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


def _named(text: str, about: str, act: Callable[[], Any]) -> None:
    """A button that says what it is about to who does not see where it stands."""
    frame.button(text, act).props(f'aria-label="{frame.safe(f"{text}: {about}")}"')


def _mute(*, is_muted: bool) -> tuple[str]:
    return ("Unmute" if is_muted else "Mute",)


def _alert(row: dict[str, Any], *, is_muted: bool) -> str:
    kind = {"critical": "bad", "warning": "warn"}.get(row["severity"], "")
    said = [f"noticed {frame.when(row['since'])} UTC"]
    said += [f"acknowledged by {frame.safe(row['acknowledged_by'])}"] if row["acknowledged_by"] else []
    said += [f"muted until {frame.when(row['muted_until'])} UTC"] if is_muted else []
    return (
        f'<b class="{kind}">{frame.safe(row["severity"])}</b> · <b>{frame.safe(row["rule"])}</b><br>'
        f'<span class="wrap">{frame.safe(row["text"])}</span><br>'
        f'<span class="small soft">{" · ".join(said)}</span>'
    )


def _events(found: list[dict[str, Any]], *, with_skip: bool) -> str:
    if not found:
        said = "There is nothing earlier." if with_skip else "Nothing has happened yet."
        return f'<p class="empty">{said}</p>'
    rows = [
        (
            frame.when(row["at"]),
            frame.safe(row["rule"]),
            _SAID.get(row["kind"], frame.safe(row["kind"])),
            f'<span class="wrap">{frame.safe(row["text"])}{_until(row)}</span>',
            frame.safe(", ".join(row["told"])),
        )
        for row in found
    ]
    return frame.table(("When (UTC)", "Rule", "What", "Said", "Told"), rows)


def _until(row: dict[str, Any]) -> str:
    if row["kind"] != "muted":
        return ""
    about = frame.safe(row["device"] or row["gateway"] or "all of the rule")
    return f", {about}: " + (f"until {frame.when(row['until'])}" if row["until"] > row["at"] else "ended")

"""The part of the page Alerts where a rule is made, edited, tried and saved."""

import time
from collections.abc import Awaitable, Callable
from typing import Any

from nicegui import ui

from analytics.alerts.conditions import condition
from analytics.alerts.rules import AnyRule
from analytics.alerts.state import sentence
from analytics.alerts.store import Store
from analytics.web import frame
from analytics.web.asking import Asker
from analytics.web.rule_form import COMMON, FIELDS, KINDS, Field, described, filled, written
from ingest.clickhouse.client import Client

BY = "dashboard"
SHOWN_MAX = 5


def _now_ms() -> int:
    return time.time_ns() // 1_000_000


class RuleCard:
    """The card of one open page. after: called when a rule was saved."""

    def __init__(self, asker: Asker, after: Callable[[], Awaitable[None]]) -> None:
        self._asker = asker
        self._after = after
        self._edited = ""
        self._inputs: dict[str, Any] = {}
        self._known: dict[str, list[str]] = {"devices": [], "metrics": []}
        with ui.element("section").classes("card").props("id=rule"):
            with ui.element("div").classes("bar"):
                self._title = ui.html("<h2>A new rule</h2>", sanitize=False).classes("grow")
                self._new = frame.button("Make a new one instead", self._blank)
            self._kind = ui.select(KINDS, value="threshold", label="What should be noticed")
            self._kind.props("outlined dense").style("max-width:32rem")
            self._box = ui.element("div").classes("fields")
            self._more = ui.element("div").classes("fields")
            with self._more:
                self._common = {field.key: self._input(field, field.start) for field in COMMON}
            self._trouble = frame.Trouble()
            self._outcome = frame.part().props("role=status")
            with ui.element("div").classes("bar"):
                frame.button("Try it", self._check)
                frame.button("Save", self._save, strong=True)
        self._new.visible = False
        self._kind.on_value_change(lambda: self._fields({}))
        self._fields({})

    async def names(self) -> None:
        """What devices and metrics there are to complete."""
        async with self._trouble.told("names"):
            [(self._known["devices"], self._known["metrics"])] = (await self._asker.named("web_choices")).rows
            for field in FIELDS[self._kind.value]:
                if field.names:
                    self._inputs[field.key].set_autocomplete(self._known[field.names])

    def _fields(self, values: dict[str, str]) -> None:
        self._box.clear()
        with self._box:
            fields = FIELDS[self._kind.value]
            self._inputs = {field.key: self._input(field, values.get(field.key, field.start)) for field in fields}

    def _input(self, field: Field, value: str) -> Any:
        if "|" in field.takes:
            made: Any = ui.select(field.takes.split("|"), value=value, label=field.label).props("outlined dense")
        else:
            made = ui.input(field.label, value=value, autocomplete=self._known.get(field.names))
            made.props("outlined dense maxlength=2000" + (" inputmode=decimal" if field.takes == "number" else ""))
        return made.props(f'hint="{frame.safe(field.hint)}"')

    def _values(self) -> dict[str, str]:
        return {key: str(one.value or "") for key, one in (self._inputs | self._common).items()}

    def edit(self, rule: AnyRule) -> None:
        """Have this rule in the form."""
        values = filled(rule)
        self._edited, self._new.visible = rule.name, True
        self._title.content = f"<h2>The rule {frame.safe(rule.name)}</h2>"
        self._kind.value = rule.kind
        self._fields(values)
        for key, one in self._common.items():
            one.value = values[key]
        self._outcome.content = ""
        ui.run_javascript("document.getElementById('rule').scrollIntoView()")

    def _blank(self) -> None:
        self._edited, self._new.visible = "", False
        self._title.content = "<h2>A new rule</h2>"
        self._fields({})
        for field in COMMON:
            self._common[field.key].value = field.start

    async def _check(self) -> None:
        self._outcome.content = ""
        async with self._trouble.told():
            rule = written(self._kind.value, self._values())
            self._outcome.content = await self._asker.act(lambda client: _tried(client, rule))

    async def _save(self) -> None:
        self._outcome.content = ""
        async with self._trouble.told():
            rule = written(self._kind.value, self._values())
            renamed = self._edited if self._edited not in {"", rule.name} else ""

            def save(client: Client) -> None:
                store = Store(client)
                store.set_rule(rule.name, rule, BY, _now_ms())
                if renamed:
                    store.set_rule(renamed, None, BY, _now_ms())

            await self._asker.act(save)
            self._blank()
            self._outcome.content = f'<p class="small">Saved {frame.safe(rule.name)}.</p>'
            await self._after()


def _tried(client: Client, rule: AnyRule) -> str:
    """What a rule sees now."""
    found = condition(rule, _now_ms()).ask(client)
    firing = sorted((each for each in found if each.fires), key=lambda each: each.subject)
    meaning = f'<p class="small">It fires if {frame.safe(described(rule))}.</p>'
    if not found:
        nothing = "There is nothing it could look at now: check its names, or wait for readings."
        return f'{meaning}<p class="small">{nothing}</p>'
    said = "".join(f"<li>{frame.safe(sentence(rule, each))}</li>" for each in firing[:SHOWN_MAX])
    more = f"<li>and {len(firing) - SHOWN_MAX:,} more</li>" if len(firing) > SHOWN_MAX else ""
    counted = f"It sees {len(found):,}, and would fire for {len(firing):,} now."
    return f'{meaning}<p class="small">{counted}</p><ul class="small">{said}{more}</ul>'

"""SQL: any statement that reads, with its result as a table or a chart.

Read-only twice: by the setting `readonly`, and by an allow list (analytics/web/reading.py), which also keeps table
functions such as url() from being used. A result has at most `ROWS_MAX` rows.
"""

import json
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

from fastapi import Request
from nicegui import ui

from analytics import queries
from analytics.web import charts, frame
from analytics.web.asking import Asker, Table
from analytics.web.statements import Statements
from telemetry.errors import FieldlineError

ROWS_MAX = 2000
RESULT_PX = 440
LINES_MAX = 12
BARS_MAX = 200
FIRST = "SELECT device, metric, value, unit, measured_at\nFROM fieldline.latest\nORDER BY device, metric"
SHOWN_CHARACTERS_MAX = 1000


class Sql:
    """The page; one for all who open it, so that it knows the file of saved queries."""

    def __init__(self, statements: Statements) -> None:
        self._statements = statements

    async def build(self, asker: Asker, _: Request) -> None:
        """Fill the page."""
        statements = self._statements
        trouble = frame.Trouble()
        with ui.element("section").classes("card"):
            editor = ui.codemirror(FIRST, language="SQL", line_wrapping=True, keymap={"Mod-Enter": lambda: run()})
            editor.style("height:220px;width:100%")
            with ui.element("div").classes("bar"):
                start = frame.button("Run", lambda: run(), strong=True)
                stop = frame.button("Cancel", asker.cancel)
                stop.props("disabled")
                ui.html(
                    '<span class="small soft">Ctrl+Enter runs, Ctrl+Space completes, Escape and Tab leave.</span>',
                    sanitize=False,
                ).classes("grow")
            with ui.element("div").classes("bar"):
                chosen = ui.select(_examples(statements), label="Open: saved, recent, examples", with_input=True)
                chosen.props("outlined dense").classes("grow")
                name = ui.input("Save as").props("outlined dense").classes("grow")
                frame.button("Save", lambda: save())
                frame.button("Forget", lambda: forget())
        status = ui.label().classes("small soft").props("role=status")
        with ui.element("section").classes("card") as result:
            with ui.element("div").classes("bar"):
                as_table = frame.button("Table", lambda: turn(chart=False))
                as_chart = frame.button("Chart", lambda: turn(chart=True))
            table_box = ui.element("div").style("width:100%")
            chart_box = ui.element("div").style("width:100%")
        result.visible = False

        async def run() -> None:
            text = _statement(editor.value)
            if not text:
                trouble.say("There is no statement. Write one, or open an example below.")
                return
            start.props("disabled")
            stop.props(remove="disabled")
            status.text = "Running …"
            began = time.monotonic()
            try:
                async with trouble.told():
                    found = await asked(text)
                    status.text = _said(found, time.monotonic() - began)
                    result.visible = bool(found.rows)
                    _show(found, table_box, chart_box)
                    as_chart.set_visibility(_drawable(found))
                    turn(chart=chart_box.visible and _drawable(found))
                    statements.note(editor.value)
                    chosen.set_options(_examples(statements))
            finally:
                if status.text == "Running …":
                    status.text = ""
                start.props(remove="disabled")
                stop.props("disabled")

        def turn(*, chart: bool) -> None:
            chart_box.visible, table_box.visible = chart, not chart
            as_chart.props(f"aria-pressed={str(chart).lower()}")
            as_table.props(f"aria-pressed={str(not chart).lower()}")

        async def asked(text: str) -> Table:
            try:
                return await asker.statement(text, _LIMITS, ROWS_MAX + 1)
            except FieldlineError as error:
                if (at := position(str(error))) is not None:
                    ui.run_javascript(f"fieldline.jump({editor.id}, {editor.value.find(text) + at})")
                raise

        async def save() -> None:
            async with trouble.told():
                statements.save(name.value or "", editor.value)
                chosen.set_options(_examples(statements))
                status.text = f"Saved as {name.value}."

        async def forget() -> None:
            async with trouble.told():
                statements.forget(name.value or "")
                chosen.set_options(_examples(statements))
                status.text = f"{name.value} is not saved any more."

        def open_() -> None:
            kind, _, key = (chosen.value or "").partition(":")
            if kind == "saved":
                editor.value, name.value = statements.saved.get(key, editor.value), key
            elif kind == "recent" and int(key) < len(statements.history):
                editor.value = statements.history[int(key)]
            elif kind == "example":
                editor.value = _example(key)

        async def words() -> None:
            ui.run_javascript(f"fieldline.editor({editor.id})")
            async with trouble.told("words"):
                found = (await asker.named("web_words")).rows
                ui.run_javascript(f"fieldline.complete({editor.id}, {json.dumps([list(row) for row in found])})")

        turn(chart=False)
        chosen.on_value_change(open_)
        ui.timer(0.1, words, once=True)


_LIMITS: Mapping[str, int | str] = {
    "max_result_rows": ROWS_MAX + 1,
    "result_overflow_mode": "break",
    "max_memory_usage": 2_000_000_000,
}


def _statement(text: str) -> str:
    """Without what only other tools need at its end."""
    return re.sub(r"\s+FORMAT\s+\w+$", "", text.strip().rstrip(";").strip(), flags=re.IGNORECASE)


def _examples(statements: Statements) -> dict[str, str]:
    saved = {f"saved:{name}": f"Saved: {name}" for name in statements.saved}
    recent = {f"recent:{at}": f"Recent: {' '.join(text.split())[:70]}" for at, text in enumerate(statements.history)}
    examples = {f"example:{name}": f"Example: {queries.load(name).title}" for name in queries.names()}
    return saved | recent | examples


def _example(name: str) -> str:
    """A named query as a statement by itself: parameters with a default are filled in, others left to be."""
    query = queries.load(name)
    sql = query.sql
    for parameter in query.parameters:
        value = parameter.default if parameter.default is not None else f"{parameter.name}?"
        literal = (
            value if re.fullmatch(r"-?\d+", value) else "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
        )
        use = r"\{" + parameter.name + r"\s*:\s*[^{}]+\}"
        literal = f"[{literal}]" if parameter.type.startswith("Array") else literal
        sql = re.sub(use, literal.replace("\\", r"\\"), sql)
    return f"-- {query.title}\n{sql}"


def _said(found: Table, took_s: float) -> str:
    more = len(found.rows) > ROWS_MAX
    count = f"the first {ROWS_MAX:,} rows" if more else f"{len(found.rows):,} row{'' if len(found.rows) == 1 else 's'}"
    return f"{count.capitalize()} in {took_s:.2f} s." + (
        " Add LIMIT, or use fieldline sql for all of them." if more else ""
    )


def _cell(value: Any) -> Any:
    """What JSON and AG Grid can show."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bool) or value is None or isinstance(value, float):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**53 else str(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ", timespec="milliseconds" if value.microsecond else "seconds")
    return str(value)[:SHOWN_CHARACTERS_MAX]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float | Decimal) and not isinstance(value, bool)


def _show(found: Table, table_box: ui.element, chart_box: ui.element) -> None:
    """Both anew, for columns of other types; they are made only when there is a result, for they are large."""
    rows = found.rows[:ROWS_MAX]
    first = rows[0] if rows else ()
    columns = [
        {
            "headerName": name,
            "field": f"c{at}",
            "sortable": True,
            "resizable": True,
            "flex": 1,
            "minWidth": 120,
            "headerTooltip": found.types[at],
            "type": "rightAligned" if first and _is_number(first[at]) else None,
        }
        for at, name in enumerate(found.names)
    ]
    data = [{f"c{at}": _cell(value) for at, value in enumerate(row)} for row in rows]
    table_box.clear()
    with table_box:
        grid = ui.aggrid({"columnDefs": columns, "rowData": data}, auto_size_columns=False)
        grid.style(f"height:{RESULT_PX}px;width:100%")
    if _drawable(found):
        frame.chart(chart_box, _plot(found), "Result as a chart", RESULT_PX)


def _numbers(found: Table) -> list[int]:
    return [at for at in range(len(found.names)) if found.rows and _is_number(found.rows[0][at])]


def _drawable(found: Table) -> bool:
    return bool(_numbers(found)) and len(found.names) > 1


def _plot(found: Table) -> dict[str, Any]:
    """Numbers over the first column that is a time, a line for each; else bars by the first that is no number.

    One number over time with a text beside it is a line for each text: rows of several devices are no zigzag.
    """
    grey = {"color": charts.GREY}
    times = [at for at in range(len(found.names)) if isinstance(found.rows[0][at], date)]
    kind, rows = ("line", found.rows[:ROWS_MAX]) if times else ("bar", found.rows[:BARS_MAX])
    lines = _lines(found, rows, times[0]) if times else _bars(found, rows)
    return {
        "animation": False,
        "useUTC": True,
        "textStyle": {"fontFamily": "inherit"},
        "color": list(charts.PALETTE),
        "legend": {"type": "scroll", "top": 0, "left": 0, "textStyle": grey},
        "tooltip": {"trigger": "axis", "className": "tip", "confine": True},
        "grid": {"left": 72, "right": 18, "top": 44, "bottom": 32},
        "xAxis": {"type": "time" if times else "category", "axisLabel": grey | {"hideOverlap": True}},
        "yAxis": {
            "type": "value",
            "scale": bool(times),
            "axisLabel": grey,
            "splitLine": {"lineStyle": {"color": "rgba(128,136,148,.22)"}},
        },
        "dataZoom": [{"type": "inside"}],
        "series": [
            {"type": kind, "name": name, "symbol": "none", "data": data}
            for name, data in list(lines.items())[:LINES_MAX]
        ],
    }


def _lines(found: Table, rows: list[tuple[Any, ...]], time_at: int) -> dict[str, list[list[Any]]]:
    """Name -> (milliseconds, value), ascending."""
    numbers = _numbers(found)
    texts = [at for at in range(len(found.names)) if isinstance(found.rows[0][at], str)]
    lines: dict[str, list[list[Any]]] = {}
    for row in sorted((row for row in rows if row[time_at] is not None), key=lambda row: row[time_at]):
        for at in numbers:
            name = str(row[texts[0]]) if texts and len(numbers) == 1 else found.names[at]
            lines.setdefault(name, []).append([_milliseconds(row[time_at]), _cell(row[at])])
    return dict(sorted(lines.items())) if texts else lines


def _milliseconds(at: date) -> int:
    """As ClickHouse's times come: in UTC where they state no zone."""
    moment = at if isinstance(at, datetime) else datetime(at.year, at.month, at.day)  # noqa: DTZ001 - see above
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _bars(found: Table, rows: list[tuple[Any, ...]]) -> dict[str, list[list[Any]]]:
    """Name -> (label, value)."""
    numbers = _numbers(found)
    label = next((at for at in range(len(found.names)) if at not in numbers), numbers[0])
    shown = [at for at in numbers if at != label] or numbers
    return {found.names[at]: [[str(_cell(row[label])), _cell(row[at])] for row in rows] for at in shown}


def position(text: str) -> int | None:
    """Where ClickHouse says that a statement is wrong, counted from 0."""
    found = re.search(r"failed at position (\d+)", text)
    return int(found[1]) - 1 if found else None

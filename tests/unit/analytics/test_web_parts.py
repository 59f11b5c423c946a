"""The pure parts of the dashboard: steps and local times of plots, numbers for people, examples, saved statements."""

import math
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from analytics import queries
from analytics.web import charts, frame
from analytics.web.asking import Table
from analytics.web.pages.sql import _example, _plot, position
from analytics.web.statements import HISTORY_MAX, Statements
from analytics.web.view import NAMES_MAX, SPAN_MS_MAX, SPAN_MS_MIN, View
from telemetry.errors import FieldlineError


@given(st.integers(SPAN_MS_MIN, SPAN_MS_MAX))
def test_a_span_never_has_too_many_points_and_fits_its_table(span_ms: int) -> None:
    step = charts.step_ms(span_ms, 400)
    assert span_ms / step <= 400 or step == 50
    assert step < 60_000 or step % 60_000 == 0
    assert step < 3_600_000 or step % 3_600_000 == 0


def test_local_times_follow_daylight_saving() -> None:
    zone = ZoneInfo("Europe/Berlin")
    winter, summer = (int(datetime(2026, month, 1, tzinfo=UTC).timestamp() * 1000) for month in (1, 7))
    assert charts.local_ms(winter, zone) - winter == 3_600_000
    assert charts.local_ms(summer, zone) - summer == 7_200_000


NAMES = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), max_size=4)


@given(NAMES, NAMES, st.integers(1, 4_000_000_000_000), st.integers(SPAN_MS_MIN, SPAN_MS_MAX))
def test_a_link_restores_the_view(devices: list[str], metrics: list[str], end_ms: int, span_ms: int) -> None:
    view = View(QueryParams("zone=Asia/Tokyo&against=604800"))
    view.devices, view.metrics = devices, metrics
    view.move(end_ms - span_ms, end_ms)
    again = View(QueryParams(view.link.partition("?")[2]))
    assert (again.devices, again.metrics, again.begin_ms, again.end_ms) == (devices, metrics, end_ms - span_ms, end_ms)
    assert (again.zone, again.against_s, again.follows) == ("Asia/Tokyo", 604_800, False)
    assert again.link == view.link


def test_a_link_that_somebody_made_up_does_no_harm() -> None:
    view = View(QueryParams("zone=Nowhere&span_ms=-5&end_ms=soon&against=7" + "&device=x" * 1000))
    assert (view.zone, view.span_ms, view.against_s, view.follows) == ("UTC", SPAN_MS_MIN, 0, True)
    assert len(view.devices) == NAMES_MAX
    view = View(QueryParams(f"end_ms={10**30}&span_ms={10**30}"))
    assert "every" in view.caption(1, 1, thinned=False)


def test_the_table_follows_from_the_span() -> None:
    sources = {seconds: View(QueryParams(f"span_ms={seconds}000")).source for seconds in (3600, 86_400, 31_536_000)}
    assert sources == {3600: "raw", 86_400: "rollup_1m", 31_536_000: "rollup_1h"}


def test_the_browsers_time_zone_is_utc_until_it_is_known() -> None:
    view = View(QueryParams("zone=browser"))
    assert view.clock.key == "UTC"
    view.browser_zone = "Europe/Berlin"
    assert view.clock.key == "Europe/Berlin"
    assert "zone=browser" in view.link


@given(st.lists(st.floats(-1e12, 1e12, allow_subnormal=False), min_size=1))
def test_a_y_axis_has_what_is_in_sight(values: list[float]) -> None:
    seen = charts.Series("d", "m", "", [(5, value) for value in values] + [(99, 1e15)])
    low, high, step = charts.axis([seen], (0, 10))
    slack = 1e-9 * max(map(abs, values))
    assert low - slack <= min(values) <= max(values) <= high + slack
    assert 1 <= round((high - low) / step) <= 8


def test_what_shares_an_axis_is_a_unit() -> None:
    series = [
        charts.Series("d", metric, unit, []) for metric, unit in (("a", "m/s"), ("b", "m/s"), ("c", ""), ("d", ""))
    ]
    options = charts.lines(series, ZoneInfo("UTC"), (0, 3), (1, 2))
    assert [axis["name"] for axis in options["yAxis"]] == ["m/s", "c", "d"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0"),
        (81.5, "81.5"),
        (1234567.8, "1,234,568"),
        (1234.5678, "1,234.6"),
        (0.00001, "1e-05"),
        (-0.99, "-0.99"),
    ],
)
def test_numbers(value: float, shown: str) -> None:
    assert frame.number(value) == shown


def test_text_of_devices_is_no_html() -> None:
    assert frame.safe('<b>&"') == "&lt;b&gt;&amp;&quot;"


def test_examples_are_statements_without_parameters() -> None:
    for name in queries.names():
        assert "{" not in _example(name), name


def test_rows_of_several_devices_are_a_line_each() -> None:
    day = [date(2026, 1, 1), date(2026, 1, 2)]
    rows: list[tuple[Any, ...]] = [(day[1], "b", 4.0), (day[0], "b", 3), (day[0], "a", 1), (day[1], "a", math.nan)]
    options = _plot(Table(("day", "device", "power"), ("Date", "String", "Float64"), rows))
    at = [1_767_225_600_000, 1_767_312_000_000]
    assert [(one["name"], one["data"]) for one in options["series"]] == [
        ("a", [[at[0], 1], [at[1], "nan"]]),
        ("b", [[at[0], 3], [at[1], 4.0]]),
    ]
    assert options["xAxis"]["type"] == "time"


def test_numbers_without_a_time_are_bars() -> None:
    options = _plot(Table(("device", "least", "most"), ("String", "Float64", "Float64"), [("a", 1, 2), ("b", 3, 4)]))
    assert [(one["name"], one["data"]) for one in options["series"]] == [
        ("least", [["a", 1], ["b", 3]]),
        ("most", [["a", 2], ["b", 4]]),
    ]


def test_the_position_of_an_error() -> None:
    assert position("Syntax error: failed at position 15 (FORM)") == 14
    assert position("Unknown column") is None


def test_statements_are_kept(tmp_path: Path) -> None:
    statements = Statements(tmp_path / "var" / "s.json")
    assert (statements.saved, statements.history) == ({}, [])
    statements.save("b", "SELECT 2")
    statements.save("a", "SELECT 1")
    for number in range(HISTORY_MAX + 5):
        statements.note(f"SELECT {number}")
    statements.note("SELECT 50")
    assert list(statements.saved) == ["a", "b"]
    assert statements.history[:2] == ["SELECT 50", f"SELECT {HISTORY_MAX + 4}"]
    assert len(statements.history) == HISTORY_MAX
    statements.forget("a")
    assert Statements(statements.path).saved == {"b": "SELECT 2"}
    with pytest.raises(FieldlineError, match="needs a name"):
        statements.save(" ", "SELECT 1")


def test_a_damaged_file_of_statements_is_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "s.json"
    path.write_text('{"saved": ')
    assert Statements(path).saved == {}

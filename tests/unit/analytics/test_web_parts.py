"""The pure parts of the dashboard: steps and local times of plots, numbers for people, examples, saved statements."""

from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics import queries
from analytics.web import charts, frame
from analytics.web.pages.explorer import SPAN_MS_MAX, SPAN_MS_MIN, View
from analytics.web.pages.sql import _example, position
from analytics.web.statements import HISTORY_MAX, Statements
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


def test_a_link_restores_the_view() -> None:
    view = View({"devices": "a,b", "metrics": "m", "zone": "Asia/Tokyo", "span_ms": "60000", "end_ms": "1000000"})
    assert (view.devices, view.metrics, view.zone, view.begin_ms) == (["a", "b"], ["m"], "Asia/Tokyo", 940_000)
    assert not view.follows
    assert view.link == "/explorer?devices=a,b&metrics=m&zone=Asia/Tokyo&span_ms=60000&end_ms=1000000"


def test_a_link_that_somebody_made_up_does_no_harm() -> None:
    view = View({"zone": "Nowhere", "span_ms": "-5", "end_ms": "soon", "devices": "x," * 1000})
    assert (view.zone, view.span_ms, view.follows, len(view.devices)) == ("UTC", SPAN_MS_MIN, True, 50)


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

"""Windows: what they say of their readings, when they close, and what is kept beside them."""

import statistics
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Process
from edge_agent.processing import Processing
from edge_agent.readings import NAME_CHARS_MAX, Readings
from edge_agent.windows import AGGREGATES, SILENCE_MS, Window, unpacked
from telemetry.columns import TIME_FROM_GATEWAY, VALUE_BAD, VALUE_STALE, Series
from telemetry.errors import FieldlineError
from tests.records import NEW_YEAR_MS

MINUTE_MS = 60_000
ALL = tuple(AGGREGATES)


class Rule:
    """Processing by one rule for t. `add` gives what it makes of readings: (metric, value, time in ms, quality)."""

    def __init__(self, ids: dict[Series, int] | None = None, windows: dict[int, bytes] | None = None, **rule: Any):
        self.ids = {} if ids is None else ids
        sections = [Process.model_validate({"metric": "t", "window_s": 60, **rule})]
        self.processing = Processing(sections, lambda s: self.ids.setdefault(s, len(self.ids)), windows or {})
        self.t = self.processing.series_id(Series("d", "t", "V"))

    def add(self, *readings: tuple[float, float], at_ms: int = 0, quality: int = 0) -> list[tuple[Any, ...]]:
        """Readings (s since the new year, value) that come at at_ms."""
        into = Readings()
        for measured_s, value in readings:
            into.add([self.t], [value], NEW_YEAR_MS + round(measured_s * 1000), quality)
        self.processing.apply(into, NEW_YEAR_MS + at_ms)
        names = [series.metric for series in self.ids]
        return [
            (names[id_], value, at - NEW_YEAR_MS, quality)
            for id_, value, at, quality in zip(into.series, into.value, into.measured_at, into.quality, strict=True)
        ]


@given(st.lists(st.tuples(st.floats(0, 59), st.floats(-1e9, 1e9)), min_size=1, max_size=30))
def test_its_aggregates_are_those_of_its_readings(readings: list[tuple[float, float]]) -> None:
    rule = Rule(aggregates=ALL)
    assert rule.add(*readings) == []
    said = rule.add((60, 0.0))
    assert {at for _, _, at, _ in said} == {0}
    values = [value for _, value in readings]
    assert {name: value for name, value, _, _ in said} == {
        "t.count": len(values),
        "t.min": min(values),
        "t.max": max(values),
        "t.mean": pytest.approx(statistics.fmean(values), abs=1e-6),
        "t.last": max(enumerate(readings), key=lambda one: (round(one[1][0] * 1000), one[0]))[1][1],
        "t.stddev": pytest.approx(statistics.pstdev(values), abs=1e-3),
    }
    assert rule.processing.thinned == len(readings) + 1
    assert {series.metric: series.unit for series in rule.ids} == {
        "t": "V",
        "t.count": "",
        **{f"t.{name}": "V" for name in ALL if name != "count"},
    }


def test_aggregates_come_in_the_units_of_the_rule() -> None:
    rule = Rule(aggregates=["mean"], unit="mV", scale=1000)
    rule.add((0, 0.5), (1, 1.5))
    assert rule.add((60, 0)) == [("t.mean", 1000, 0, 0)]
    assert list(rule.ids) == [Series("d", "t", "mV"), Series("d", "t.mean", "mV")]


def test_what_is_too_late_is_kept_as_it_is() -> None:
    rule = Rule(aggregates=["count"])
    rule.add((0, 1))
    assert rule.add((60, 2)) == [("t.count", 1, 0, 0)]
    assert rule.add((59, 3), (61, 4)) == [("t", 3, 59_000, 0)]
    assert rule.add((120, 5)) == [("t.count", 2, 60_000, 0)]


def test_bad_and_stale_values_are_in_no_window() -> None:
    rule = Rule(aggregates=["count", "max"], value_max=10)
    rule.add((0, 1))
    assert rule.add((1, 11)) == [("t", 11, 1000, VALUE_BAD)]
    assert rule.add((2, 5), quality=VALUE_STALE) == [("t", 5, 2000, VALUE_STALE)]
    rule.add((3, 2), quality=TIME_FROM_GATEWAY)
    assert rule.add((60, 1)) == [("t.count", 2, 0, TIME_FROM_GATEWAY), ("t.max", 2, 0, TIME_FROM_GATEWAY)]


def test_what_arrives_before_the_gateway_s_clock_is_set_is_kept_as_it_is() -> None:
    rule = Rule(aggregates=["count"])
    boot_s = -NEW_YEAR_MS / 1000
    assert rule.add((boot_s, 1), quality=TIME_FROM_GATEWAY) == [("t", 1, -NEW_YEAR_MS, TIME_FROM_GATEWAY)]
    assert rule.add((0, 1), quality=TIME_FROM_GATEWAY) == []
    rule.add((boot_s, 1), quality=TIME_FROM_GATEWAY)
    assert rule.add((60, 1)) == [("t.count", 1, 0, TIME_FROM_GATEWAY)]


def test_raw_readings_beside_a_window() -> None:
    rule = Rule(aggregates=["count"], keep_raw=True, deadband=1)
    assert rule.add((0, 1), (1, 1), (2, 3)) == [("t", 1, 0, 0), ("t", 3, 2000, 0)]
    assert rule.add((60, 3)) == [("t.count", 3, 0, 0)]
    assert rule.processing.thinned == 2


def test_a_window_closes_when_nothing_more_comes_and_what_comes_then_is_too_late() -> None:
    rule = Rule(aggregates=["count"])
    rule.add((0, 1), at_ms=0)
    silence_ms = MINUTE_MS + SILENCE_MS
    assert rule.add(at_ms=silence_ms - 1) == []
    assert rule.add(at_ms=silence_ms + 1000) == [("t.count", 1, 0, 0)]
    assert rule.add((1, 7), at_ms=silence_ms + 1000) == [("t", 7, 1000, 0)]
    assert rule.add((60, 7), at_ms=silence_ms + 1000) == []
    assert rule.add(at_ms=3 * silence_ms) == [("t.count", 1, MINUTE_MS, 0)]
    assert rule.add(at_ms=9 * silence_ms) == []


def test_a_window_from_the_future_does_not_end_all_others() -> None:
    rule = Rule(aggregates=["count"])
    far_s = 10 * 365 * 86_400
    rule.add((far_s, 1))
    assert rule.add((0, 2)) == [("t", 2, 0, 0)]
    assert [row[1] for row in rule.add(at_ms=2 * MINUTE_MS)] == [1]
    assert rule.add((1, 2), at_ms=2 * MINUTE_MS) == []
    assert rule.add((60, 2), at_ms=2 * MINUTE_MS) == [("t.count", 1, 0, 0)]


def test_a_clock_that_is_set_back_closes_nothing_twice() -> None:
    rule = Rule(aggregates=["count"])
    rule.add((0, 1), at_ms=10 * MINUTE_MS)
    assert [row[0] for row in rule.add()] == ["t.count"]
    assert rule.add(at_ms=20 * MINUTE_MS) == []


def test_a_rule_with_another_length_closes_what_the_one_before_left_open() -> None:
    old = Rule(aggregates=["count", "max"])
    old.add((0, 1))
    left = old.processing.take_windows()
    assert list(left) == [old.t]
    assert old.processing.take_windows() == {}
    new = Rule(old.ids, left, aggregates=["mean"], window_s=10)
    assert new.add((11, 2)) == [("t", 2, 11_000, 0)]  # in the old one, which has none for it
    assert new.add((60, 3)) == [("t.count", 1, 0, 0), ("t.max", 1, 0, 0)]
    assert new.add((70, 3)) == [("t.mean", 3, 60_000, 0)]


def test_what_a_rule_left_open_closes_without_the_rule() -> None:
    old = Rule(aggregates=["count"])
    old.add((0, 1))
    without = Processing([], lambda series: old.ids[series], old.processing.take_windows())
    into = Readings()
    without.apply(into, NEW_YEAR_MS + 5 * MINUTE_MS)
    assert (into.series, into.value) == ([old.ids[Series("d", "t.count", "")]], [1])
    closed = unpacked(without.take_windows()[old.t])
    assert (closed.count, closed.start_ms) == (0, NEW_YEAR_MS + MINUTE_MS)


@given(st.builds(Window, *[st.integers(1, 10**12)], st.dictionaries(st.sampled_from(ALL), st.integers(0, 2**31 - 1)),
                 st.integers(-(2**63), 2**63 - 1), st.integers(0, 2**62), st.integers(0, 2**40),
                 *[st.floats(allow_nan=False)] * 5, st.integers(0, 2**62), st.integers(0, 255)))  # fmt: skip
def test_a_window_is_the_same_after_the_spool(window: Window) -> None:
    assert unpacked(window.packed()) == window


def test_an_aggregate_and_a_metric_of_the_same_name_are_not_one_series() -> None:
    rule = Rule(aggregates=["mean"])
    with pytest.raises(FieldlineError, match=r"two things would be the series 't\.mean' in 'V'"):
        rule.processing.series_id(Series("d", "t.mean", "V"))
    ids: dict[Series, int] = {}
    processing = Processing(
        [Process(metric="t", window_s=1, aggregates=("mean",))], lambda s: ids.setdefault(s, len(ids))
    )
    processing.series_id(Series("d", "t.mean", ""))
    for _ in range(2):
        with pytest.raises(FieldlineError, match="two things"):
            processing.series_id(Series("d", "t", ""))


def test_a_name_that_has_no_room_for_its_aggregate_is_refused() -> None:
    processing = Processing([Process(metric="*", window_s=1)], lambda _: 0)
    with pytest.raises(FieldlineError, match="is longer than 128 characters"):
        processing.series_id(Series("d", "t" * (NAME_CHARS_MAX - 3), ""))

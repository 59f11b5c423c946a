"""Edge processing: what the rules do to readings, and that every acknowledged reading is stored or counted."""

import asyncio
import math
import re
import sqlite3
import tomllib
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from edge_agent import commit as module
from edge_agent.commit import RETRY_S
from edge_agent.config import GatewayConfig, Process
from edge_agent.decode import Decoder
from edge_agent.processing import Processing
from edge_agent.readings import Readings
from edge_agent.spool_file import read_status
from edge_agent.windows import unpacked
from telemetry.columns import TIME_FROM_GATEWAY, VALUE_BAD, Columns, Series
from telemetry.delivery import Chunk
from tests.committing import rig
from tests.records import NEW_YEAR_MS
from tests.spool import opened

TOPIC = "devices/a/telemetry"


class Rules:
    """A decoder with rules. Called with payloads it gives the readings as (device, metric, unit, value, quality)."""

    def __init__(self, *rules: dict[str, Any], **mapping: Any) -> None:
        self.ids: dict[Series, int] = {}
        config = GatewayConfig.model_validate({"gateway": "g", "coap": {}, "process": rules, "mappings": [mapping]})
        self.decoder = Decoder(config, lambda series: self.ids.setdefault(series, len(self.ids)))

    def __call__(self, *payloads: str, topic: str = TOPIC) -> list[tuple[Any, ...]]:
        count = len(payloads)
        columns = Columns()
        chunk = Chunk(NEW_YEAR_MS, [topic] * count, [p.encode() for p in payloads], list(range(count)))
        assert self.decoder.decode(chunk, columns) == {}
        names = list(self.ids)
        return [
            (*names[id_][:3], columns.texts.get(at, columns.value[at]), columns.quality[at])
            for at, id_ in enumerate(columns.series)
        ]


def kept(rule: dict[str, Any], *readings: tuple[float, float]) -> list[tuple[float, float]]:
    """Which of (time in s, value) a rule keeps."""
    run = Rules({"metric": "t", **rule})
    found = []
    for at_s, value in readings:
        if run(f'{{"ts": {NEW_YEAR_MS + at_s * 1000:.0f}, "t": {value}}}'):
            found.append((at_s, value))
    assert run.decoder.thinned == len(readings) - len(found)
    return found


def test_scale_offset_and_unit() -> None:
    run = Rules({"metric": "t", "unit": "°C", "scale": 5 / 9, "offset": -160 / 9}, units={"t": "°F", "u": "°F"})
    assert run('{"t": 212, "u": 212}') == [
        ("a", "t", "°C", pytest.approx(100), TIME_FROM_GATEWAY),
        ("a", "u", "°F", 212, TIME_FROM_GATEWAY),
    ]


def test_the_rules_of_the_page() -> None:
    page = Path(__file__).parents[3] / "docs" / "processing.md"
    snippet, _ = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    run = Rules(*tomllib.loads(snippet)["process"])
    message = '{"temperature": 212, "vibration_x": 1}'
    assert run(message) == [("a", "temperature", "°C", pytest.approx(100), VALUE_BAD | TIME_FROM_GATEWAY)]
    assert run('{"temperature": 68}') == [("a", "temperature", "°C", pytest.approx(20), TIME_FROM_GATEWAY)]
    assert run('{"temperature": 68.3}') == []
    assert [row[3] for row in run(message, message, topic="devices/lab-1/telemetry")] == [212, 212]


def test_a_value_out_of_range_is_marked_and_stays() -> None:
    run = Rules({"metric": "t", "scale": 0.1, "value_min": -40, "value_max": 85})
    marks = {-401: VALUE_BAD, -400: 0, 850: 0, 851: VALUE_BAD}
    rows = run(*(f'{{"ts": {NEW_YEAR_MS}, "t": {raw}}}' for raw in marks))
    assert [row[4] for row in rows] == list(marks.values())
    assert [row[3] for row in rows] == pytest.approx([raw / 10 for raw in marks])
    assert Rules({"metric": "t", "value_max": 0})('{"t": 1}')[0][4] == VALUE_BAD | TIME_FROM_GATEWAY


def test_the_first_rule_that_fits_wins_and_an_empty_one_is_an_exception() -> None:
    run = Rules({"metric": "t*", "device": "lab-?"}, {"metric": "t[0-9]", "scale": 2}, {"metric": "t*", "scale": 3})
    assert [row[3] for row in run('{"t1": 1, "tx": 1, "T1": 1}')] == [2, 3, 1]
    assert [row[3] for row in run('{"t1": 1, "tx": 1}', topic="devices/lab-1/telemetry")] == [1, 1]


def test_names_are_those_after_rename() -> None:
    run = Rules({"metric": "temperature", "scale": 2}, rename={"t": "temperature"})
    assert [row[1:4] for row in run('{"t": 4}')] == [("temperature", "", 8)]


def test_a_deadband_keeps_what_moved_and_a_reading_per_heartbeat() -> None:
    readings = [(0, 20), (1, 20.5), (2, 20.6), (3, 20.2), (10, 20), (11, 20.4), (12, 20.6), (22, 20.6)]
    rule = {"deadband": 0.5, "heartbeat_s": 10}
    assert kept(rule, *readings) == [(0, 20), (2, 20.6), (10, 20), (12, 20.6), (22, 20.6)]


def test_a_deadband_of_zero_keeps_what_changed() -> None:
    assert kept({"deadband": 0}, (0, 1), (1, 1), (2, 0), (3, 0), (4, 1)) == [(0, 1), (2, 0), (4, 1)]


def test_a_deadband_in_percent_is_of_the_last_value_kept() -> None:
    readings = [(0, -200), (1, -220), (2, -221), (3, -200), (4, 0), (5, 0.001)]
    assert kept({"deadband_percent": 10}, *readings) == [(0, -200), (2, -221), (4, 0), (5, 0.001)]
    both = {"deadband_percent": 10, "deadband": 1}  # the wider one counts
    assert kept(both, (0, 5), (1, 5.9), (2, 6.1), (3, 100), (4, 109)) == [(0, 5), (2, 6.1), (3, 100)]


def test_a_minimum_interval() -> None:
    assert kept({"interval_s_min": 10}, (0, 1), (9, 50), (10, 2), (19.999, 3), (30, 4)) == [(0, 1), (10, 2), (30, 4)]


def test_what_was_measured_before_the_newest_is_kept_and_changes_nothing() -> None:
    assert kept({"deadband": 1}, (100, 5), (50, 5), (60, 5), (101, 5)) == [(100, 5), (50, 5), (60, 5)]


def test_another_quality_is_news() -> None:
    run = Rules({"metric": "t", "deadband": 10, "value_max": 5})
    payloads = [f'{{"ts": {NEW_YEAR_MS + at}, "t": {value}}}' for at, value in enumerate([5, 5.1, 5.2, 4.9])]
    assert [row[3:] for row in run(*payloads)] == [(5, 0), (5.1, VALUE_BAD), (4.9, 0)]


def test_texts_are_kept_and_keep_their_places() -> None:
    run = Rules({"metric": "*", "deadband": 0, "scale": 2})
    message = '{"t": 1, "state": "on", "u": 2, "w": "x"}'
    run(message)
    rows = run(message, '{"t": 1, "u": 3, "state": "off"}')
    assert [row[1:4] for row in rows] == [("state", "", "on"), ("w", "", "x"), ("u", "", 6), ("state", "", "off")]


def test_one_rule_does_not_make_one_series_of_two_units() -> None:
    run = Rules({"metric": "t", "unit": "°C", "scale": 0.5}, format="senml-json")
    topic = "devices/a/telemetry"
    assert run('[{"n": "t", "u": "a", "v": 4}]')[0][2:4] == ("°C", 2)
    chunk = Chunk(NEW_YEAR_MS, [topic], [b'[{"n": "t", "u": "b", "v": 4}]'], [1])
    assert run.decoder.decode(chunk, Columns()) == {
        0: "two things would be the series 't' in '°C': [[process]] gives one unit to a metric that comes in two, "
        "or an aggregate the name of a metric"
    }


def test_replayed_messages_keep_all_their_readings() -> None:
    config = GatewayConfig.model_validate(
        {"gateway": "g", "coap": {}, "process": [{"metric": "t", "deadband": 5, "interval_s_min": 60, "scale": 2}]}
    )
    columns, _ = Decoder.alone(config)(Chunk(NEW_YEAR_MS, [TOPIC] * 2, [b'{"t": 1}'] * 2, [1, 2]))
    assert list(columns.value) == [2, 2]


@pytest.mark.parametrize(
    ("rule", "why"),
    [
        ({"scale": 0}, "scale must not be 0"),
        ({"scale": math.nan}, "less than or equal to"),
        ({"value_min": 2, "value_max": 1}, "value_min must not be above value_max"),
        ({"heartbeat_s": 60}, "give deadband or deadband_percent, too"),
        ({"deadband": 1, "heartbeat_s": 5, "interval_s_min": 6}, "heartbeat_s must not be below interval_s_min"),
        ({"deadband": -1}, "greater than or equal to 0"),
        ({"metric": ""}, "at least 1 character"),
    ],
)
def test_a_rule_that_cannot_be_obeyed_is_refused(rule: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        Process.model_validate({"metric": "t", **rule})


numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-5, 5)
readings = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 60_000), numbers, st.booleans()), max_size=40)
rules = st.fixed_dictionaries(
    {"metric": st.just("m1") | st.just("m*")},
    optional={
        "scale": st.sampled_from([-1, 2, 0.1, 1e12]),
        "offset": st.integers(-3, 3),
        "value_min": st.integers(-9, 0),
        "value_max": st.integers(0, 9),
        "interval_s_min": st.integers(1, 20),
        "deadband": st.integers(0, 3),
        "deadband_percent": st.integers(0, 100),
    },
).map(Process.model_validate)


@settings(max_examples=150, deadline=None)
@given(rules, readings, st.integers(1, 9))
def test_whatever_comes_each_reading_is_kept_or_near_one_that_was(
    rule: Process, plan: list[tuple[int, int, float, bool]], size: int
) -> None:
    """plan: (number of the series, time, value, whether it is a text). In chunks of `size` readings.

    Of each reading left out it is asked anew, from the promise: is one near that was kept before?
    """
    ids: dict[Series, int] = {}
    processing = Processing([rule], lambda series: ids.setdefault(series, len(ids)))
    series = [processing.series_id(Series("d", f"m{number}", "")) for number in range(4)]
    ruled = range(4) if rule.metric == "m*" else [1]
    came: list[list[tuple[int, float, int]]] = [[] for _ in series]  # kept ones, in order
    out = 0
    for start in range(0, len(plan), size):
        part = plan[start : start + size]
        into = Readings()
        for number, at, value, is_text in part:
            into.add([series[number]], [math.nan if is_text else value], at, 0, {0: f"{value}"} if is_text else None)
        processing.apply(into, 0)
        left = zip(into.series, into.measured_at, into.value, into.quality, range(len(into.value)), strict=True)
        rest = list(left)
        for number, at, value, is_text in part:
            if number in ruled and not is_text:
                value = value * rule.scale + rule.offset  # noqa: PLW2901 - as it is after the rule
            bad = (
                not is_text
                and number in ruled
                and not (
                    (rule.value_min is None or rule.value_min <= value)
                    and (rule.value_max is None or value <= rule.value_max)
                )
            )
            quality = VALUE_BAD if bad else 0
            if rest and rest[0][:2] == (series[number], at) and rest[0][3] == quality:
                *_, place = rest[0]
                if (is_text and place in into.texts) or (not is_text and rest[0][2] == value):
                    rest.pop(0)
                    if not is_text:
                        came[number].append((at, value, quality))
                    continue
            assert number in ruled
            assert not is_text
            out += 1
            last_at, last, last_quality = max(came[number], key=lambda one: one[0])
            in_interval = rule.interval_s_min is not None and at - last_at < rule.interval_s_min * 1000
            band = max(rule.deadband or 0, (rule.deadband_percent or 0) / 100 * abs(last))
            is_near = rule.has_deadband and abs(value - last) <= band and quality == last_quality
            assert at >= last_at
            assert in_interval or is_near
        assert not rest
    assert processing.thinned == out


def test_the_spool_of_an_older_agent_can_be_looked_at(tmp_path: Path) -> None:
    with opened(tmp_path) as spool:
        spool.append(Columns(), thinned=3)
    assert read_status(tmp_path).thinned == 3
    with closing(sqlite3.connect(tmp_path / "spool.db")) as db:
        db.execute("DROP TABLE thinned")
    assert read_status(tmp_path).thinned == 0


plans = st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2), st.sampled_from(["", "crash", "failure"])), max_size=8)


@settings(deadline=None, max_examples=15)
@given(plans)
def test_every_acknowledged_reading_is_stored_or_counted_once(plan: list[tuple[int, int, str]]) -> None:
    async def main(path: Path) -> None:
        def account(sent: int) -> None:
            status = read_status(path)
            assert status.last_seq + status.thinned == sent, "acknowledged: stored, or counted"

        await live(path, plan, {"metric": "n", "deadband": 1}, account)

    in_a_folder(main)


@settings(deadline=None, max_examples=15)
@given(plans)
def test_every_acknowledged_reading_is_in_one_window_once(plan: list[tuple[int, int, str]]) -> None:
    """Messages are a second apart, the last one is far behind all others."""

    async def main(path: Path) -> None:
        sent = await live(path, plan, {"metric": "n", "window_s": 3, "aggregates": ["count", "last"]}, lambda _: None)
        async with rig(path) as it:
            counts, lasts = it.values()[::2], it.values()[1::2]
            last = unpacked(it.spool.windows()[0])
            assert read_status(path).thinned == sent
        assert last.count == 1
        assert sum(counts) == sent - 1
        assert len(lasts) == (sent + 1) // 3, "full windows, one after another"

    in_a_folder(main)


def in_a_folder(main: Callable[[Path], Coroutine[Any, Any, None]]) -> None:
    module.RETRY_S = 0.0
    try:
        with TemporaryDirectory() as folder:
            asyncio.run(main(Path(folder)))
    finally:
        module.RETRY_S = RETRY_S


async def live(
    path: Path, plan: list[tuple[int, int, str]], rule: dict[str, Any], account: Callable[[int], None]
) -> int:
    """An agent that crashes. How many messages it was sent; `account` is told whenever all of them are acknowledged.

    plan: messages of a delivery, how far their values are apart, what happens then. After a crash the broker sends
    again what was not acknowledged, and one that was, marked.
    """
    sent: list[bytes] = []
    again = 0  # from here on the broker has heard nothing
    todo = [*plan, (1, 1, "crash"), (1, 0, "")]
    while todo:
        async with rig(path) as it:
            config = GatewayConfig.model_validate({"gateway": "g", "coap": {}, "process": [rule]})
            it.commit._decoder = Decoder(config, it.spool.series_id, windows=it.spool.windows())
            await it.commit.deliver(it.delivery("again", chunk(sent, again, repeated=True)))
            await it.until_settled(1)
            while todo:
                count, apart, then = todo.pop(0)
                first = len(sent)
                for number in range(first, first + count):
                    at_ms = NEW_YEAR_MS + 1000 * number + (0 if todo else 3_600_000)
                    sent.append(b'{"ts": %d, "n": %d}' % (at_ms, number * apart))
                if then == "failure":
                    it.failures = [OSError("no")]
                settled = len(it.settled)
                await it.commit.deliver(it.delivery("x", chunk(sent, first)))
                if then == "crash":  # before its commit, or between that and the acknowledgement
                    again = max(0, first - 1)
                    await asyncio.sleep(0.002 * (count % 3))
                    break
                await it.until_settled(settled + 1)
                account(len(sent))
    return len(sent)


def chunk(sent: list[bytes], first: int, *, repeated: bool = False) -> Chunk:
    count = len(sent) - first
    marked = set(range(count)) if repeated else set()
    return Chunk(NEW_YEAR_MS, [TOPIC] * count, sent[first:], list(range(first + 1, len(sent) + 1)), marked)

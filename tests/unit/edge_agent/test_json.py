"""Format `json`, against Python's own json module as the reference."""

import json
import math
from datetime import UTC, datetime, timedelta, timezone

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.formats.fields import METRICS_MAX, TEXT_BYTES_MAX
from edge_agent.formats.json import JsonDecoder
from edge_agent.formats.times import AT_MS_MAX, AT_MS_MIN
from edge_agent.mapping import DeviceSeries
from edge_agent.plausibility import DEVICE_MS_MIN
from edge_agent.readings import Readings
from telemetry.columns import TIME_FROM_DEVICE, TIME_FROM_GATEWAY, Columns, Series

NOW = 1_767_225_600_000

names = st.text(min_size=1, max_size=20).filter(lambda s: s.isprintable() and s != "ts")
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
)
stamps = st.integers(DEVICE_MS_MIN, AT_MS_MAX - 1)


def run(payload: bytes) -> tuple[str | None, Columns, list[str]]:
    """What becomes of a message; the same the third time, when its shape is known."""
    known: dict[Series, int] = {}
    decode = JsonDecoder(DeviceSeries("d", {}, lambda s: known.setdefault(s, len(known))))
    outcomes = []
    for _ in range(3):
        readings, columns = Readings(), Columns()
        reason = decode(payload, NOW, readings)
        readings.move_to(columns, NOW)
        outcomes.append((reason, repr(columns)))
    assert len(set(outcomes)) == 1
    return reason, columns, [series.metric for series in known]


@given(st.dictionaries(names, values, min_size=1), st.booleans(), st.sampled_from([None, 1]))
def test_it_reads_what_json_reads(fields: dict[str, object], ascii_only: bool, indent: int | None) -> None:
    reason, columns, metrics = run(json.dumps(fields, ensure_ascii=ascii_only, indent=indent).encode())
    assert reason is None
    got = {metrics[columns.series[at]]: columns.texts.get(at, columns.value[at]) for at in range(len(columns))}
    expected = {k: v if isinstance(v, str) else float(v) for k, v in fields.items() if v is not None}  # type: ignore[arg-type]
    assert got == expected
    assert set(columns.quality) <= {TIME_FROM_GATEWAY}
    assert all(math.isnan(columns.value[at]) for at in columns.texts)


@given(st.lists(st.tuples(names, st.integers(0, 9) | st.sampled_from(["", "a:b", ":"]))), st.booleans())
def test_a_key_that_comes_twice_is_found_and_only_that(pairs: list[tuple[str, object]], ascii_only: bool) -> None:
    fields = (f"{json.dumps(k, ensure_ascii=ascii_only)}:{json.dumps(v)}" for k, v in pairs)
    reason, columns, _ = run(f"{{{','.join(fields)}}}".encode())
    if not pairs:
        assert reason == "the message holds no metric"
    elif len(dict(pairs)) == len(pairs):
        assert reason is None
        assert len(columns) == len(pairs)
    else:
        assert reason is not None
        assert reason.endswith("comes twice")


@given(stamps)
def test_milliseconds_are_kept_exactly(at_ms: int) -> None:
    """As milliseconds, as seconds with three decimals, and as RFC 3339 in any zone."""
    when = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=at_ms)
    zone = timezone(timedelta(minutes=at_ms % 1440 - 720))
    for ts in (
        str(at_ms),
        f"{at_ms}.0",
        f"{at_ms // 1000}.{at_ms % 1000:03}",
        json.dumps(when.astimezone(zone).isoformat(timespec="milliseconds")),
        json.dumps(when.isoformat(timespec="milliseconds").replace("+00:00", "Z")),
    ):
        reason, columns, _ = run(f'{{"ts": {ts}, "p": 1}}'.encode())
        assert reason is None
        assert list(columns.measured_at) == [at_ms], ts
        assert list(columns.quality) == [TIME_FROM_DEVICE]


@given(st.one_of(st.integers(), st.floats(allow_nan=False, allow_infinity=False)))
def test_a_number_is_a_time_in_this_century_or_refused(ts: float) -> None:
    reason, columns, _ = run(json.dumps({"ts": ts, "p": 1}).encode())
    if reason is None:
        assert AT_MS_MIN <= columns.measured_at[0] < AT_MS_MAX
    else:
        assert reason.startswith(("ts must be seconds or milliseconds since 1970", "'ts' is out of a float64"))
        assert not len(columns)


def test_a_message_of_the_largest_size_is_taken() -> None:
    reason, columns, _ = run(json.dumps({f"m{i}": i for i in range(METRICS_MAX)}).encode())
    assert reason is None
    assert list(columns.value) == [float(i) for i in range(METRICS_MAX)]
    reason, columns, _ = run(json.dumps(dict.fromkeys(map(str, range(METRICS_MAX + 1)))).encode())
    assert reason == "the message has 4097 metrics, at most 4096 are allowed"
    assert not len(columns)


def test_a_text_has_a_limit_in_bytes() -> None:
    fits = "é" * (TEXT_BYTES_MAX // 2)
    reason, columns, _ = run(json.dumps({"log": fits}).encode())
    assert reason is None
    assert columns.texts == {0: fits}
    reason, columns, _ = run(json.dumps({"a": 1, "log": fits + "é"}).encode())
    assert reason == "the text of 'log' has 65538 bytes, at most 65536 are allowed"
    assert not len(columns)


keys = st.text('abé:"\\ ', min_size=1, max_size=3)
kinds = st.sampled_from([1, 2.5, True, "text", "a:b", None])
Pairs = list[tuple[str, object]]


@given(st.dictionaries(keys, kinds, min_size=1, max_size=5), st.data())
def test_a_shape_that_is_known_takes_nothing_else(shape: dict[str, object], data: st.DataObject) -> None:
    """Of each other message becomes what would become of it without the shape."""
    known: dict[Series, int] = {}
    series = DeviceSeries("d", {}, lambda s: known.setdefault(s, len(known)))
    at = data.draw(st.integers(0, len(shape) - 1))
    other = data.draw(kinds | st.sampled_from([NOW, NOW / 1000, 1e9, 1e308, "x:", [1]]))
    for pairs in others([*shape.items()], at, other):
        payload = written(pairs, ascii_only=data.draw(st.booleans()))
        knowing = JsonDecoder(series)
        for _ in range(3):
            knowing(written([*shape.items()]), NOW, Readings())
        assert knowing._shape or any(
            '"' in key or "\\" in key or ":" in f"{key}{value}" for key, value in shape.items()
        )
        assert outcome(knowing, payload) == outcome(JsonDecoder(series), payload)


def others(pairs: Pairs, at: int, other: object) -> list[Pairs]:
    """The pairs as they are, in another order, with one twice, without one, with one more, and one changed."""
    key, value = pairs[at]
    rest = pairs[:at] + pairs[at + 1 :]
    return [
        pairs,
        pairs[::-1],
        [*pairs, (key, value)],
        [*pairs, (key, other)],
        [*rest[1:], (key, value), (key, other)],
        rest,
        [*pairs, ("one more", other)],
        [*pairs, ("ts", other)],
        [*rest, (key, other)],
    ]


def written(pairs: Pairs, *, ascii_only: bool = True) -> bytes:
    fields = (f"{json.dumps(k, ensure_ascii=ascii_only)}:{json.dumps(v, ensure_ascii=ascii_only)}" for k, v in pairs)
    return f"{{{','.join(fields)}}}".encode()


def outcome(decode: JsonDecoder, payload: bytes) -> tuple[str | None, list[tuple[object, ...]]]:
    """The reason, or the readings in the order of their series."""
    readings = Readings()
    reason = decode(payload, NOW, readings)
    values = [repr(readings.texts.get(at, value)) for at, value in enumerate(readings.value)]
    return reason, sorted(zip(readings.series, readings.measured_at, values, readings.quality, strict=True))


def test_an_escaped_colon_hides_no_key_that_comes_twice() -> None:
    """As many colons as the shape has keys, and one key twice: an escaped colon makes up for it."""
    for first, twice in (
        (b'{"a:b": 1}', rb'{"a\u003ab": 1, "a\u003ab": 2}'),
        (b'{"a": "x:y"}', rb'{"a": "x\u003ay", "a": "x\u003ay"}'),
    ):
        decode = JsonDecoder(DeviceSeries("d", {}, lambda _series: 0))
        for _ in range(3):
            assert decode(first, NOW, Readings()) is None
        assert str(decode(twice, NOW, Readings())).endswith("comes twice")

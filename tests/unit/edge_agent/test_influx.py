"""Format `influx`: what a writer of line protocol says comes out, and no two series have one name."""

import re

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Influx
from edge_agent.formats.fields import METRICS_MAX, TEXT_BYTES_MAX
from edge_agent.formats.influx import HEADS_MAX, LEARNED_MAX, InfluxDecoder
from edge_agent.formats.influx_line import expression
from edge_agent.mapping import DeviceSeries
from edge_agent.readings import Readings
from telemetry.columns import Series

NOW = 1_767_225_600_000

names = st.text(st.sampled_from("ab.,= \\é"), min_size=1, max_size=4).filter(lambda name: name[-1] != "\\")
tags = st.dictionaries(names, names, max_size=2)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(2**63), 2**63 - 1)
values = numbers | st.booleans() | st.text(st.sampled_from('ab", =\\#é'), max_size=5)
points = st.tuples(names.filter(lambda name: name.strip() == name and name[0] != "#"), tags, names, values)
Point = tuple[str, dict[str, str], str, object]


class Decoder:
    """A decoder with the names of its series."""

    def __init__(self, options: Influx | None = None) -> None:
        self.known: dict[Series, int] = {}
        series = DeviceSeries("d", {}, lambda s: self.known.setdefault(s, len(self.known)))
        self.decode = InfluxDecoder(series, options or Influx())

    def __call__(self, payload: str) -> str | list[tuple[str, float | str, int]]:
        readings = Readings()
        reason = self.decode(payload.encode(), NOW, readings)
        if reason is not None:
            assert not readings.value
            return reason
        metrics = [series.metric for series in self.known]
        return [
            (metrics[id_], readings.texts.get(at, float(readings.value[at])), readings.measured_at[at])
            for at, id_ in enumerate(readings.series)
        ]


def escaped(name: str, special: str = ",= ") -> str:
    """As a writer does it, see `is_plain`."""
    return re.sub(rf"([{special}])", r"\\\1", name)


def written(point: Point) -> str:
    measurement, tags, field, value = point
    head = escaped(measurement, ", ") + "".join(f",{escaped(k)}={escaped(v)}" for k, v in tags.items())
    if isinstance(value, bool):
        shown = str(value)
    elif isinstance(value, str):
        shown = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    else:
        shown = f"{value}i" if isinstance(value, int) else repr(value)
    return f"{head} {escaped(field)}={shown}"


def is_plain(point: Point) -> bool:
    """A name with a backslash before what must be escaped cannot be written in line protocol."""
    measurement, tags, field, _ = point
    return not any(re.search(r"\\[,= \\]", name) for name in (measurement, field, *tags, *tags.values()))


@given(st.lists(points.filter(is_plain), min_size=1, max_size=4))
def test_what_is_written_is_read_and_no_two_series_have_one_name(several: list[Point]) -> None:
    got = Decoder()("\n".join(map(written, several)))
    assert isinstance(got, list), got
    assert [value for _, value, _ in got] == [v if isinstance(v, str) else float(v) for _, _, _, v in several]  # type: ignore[arg-type]
    series = [(measurement, frozenset(tags.items()), field) for measurement, tags, field, _ in several]
    assert len({metric for metric, _, _ in got}) == len(set(series))
    assert len(set(zip(series, (metric for metric, _, _ in got), strict=True))) == len(set(series))


@given(names.filter(lambda n: "\\" not in n), tags, names, tags, names)
def test_also_with_the_measurement_left_out(
    measurement: str, tags: dict[str, str], field: str, other_tags: dict[str, str], other_field: str
) -> None:
    name = measurement.strip() or "m"
    several: list[Point] = [(name, tags, field, 1), (name, other_tags, other_field, 1)]
    if all(map(is_plain, several)):
        got = Decoder(Influx(measurement=name))("\n".join(map(written, several)))
        assert isinstance(got, list), got
        assert (got[0][0] == got[1][0]) == ((tags, field) == (other_tags, other_field))


@given(st.lists(numbers, min_size=1, max_size=4), st.data())
def test_a_line_that_is_known_takes_nothing_else(some: list[float], data: st.DataObject) -> None:
    """Of each other line becomes what would become of it had the decoder seen none before."""
    fields = ",".join(f"f{n}={written(('', {}, '', value)).split('=')[-1]}" for n, value in enumerate(some))
    line = f"m,t=a {fields} 1767225600000000000"
    knowing = Decoder()
    first = knowing(line)
    assert knowing.decode._known
    assert knowing(line) == first
    at = data.draw(st.integers(0, len(line)))
    piece = data.draw(st.text('0fi=., e-+u1\\"', max_size=2))
    other = line[:at] + piece + line[at + data.draw(st.integers(0, 2)) :]
    assert knowing(other) == Decoder()(other)


def test_limits() -> None:
    fields = ",".join(f"f{n}={n}" for n in range(METRICS_MAX))
    assert len(Decoder()(f"m {fields}")) == METRICS_MAX
    assert Decoder()(f"m {fields},x=1") == "line 1: it has 4097 fields, at most 4096 are allowed"
    fits = "é" * (TEXT_BYTES_MAX // 2)
    assert Decoder()(f'm v="{fits}"') == [("m.v", fits, NOW)]
    assert Decoder()(f'm v="{fits}é"') == "line 1: it has a string of more than 65536 bytes"


def test_a_message_makes_few_expressions_however_many_lines_it_has() -> None:
    before = expression.cache_info().misses
    for _ in range(2):
        assert len(Decoder()("\n".join(f"m,t={n} new{n}=1" for n in range(1000)))) == 1000
    assert expression.cache_info().misses - before == LEARNED_MAX


def test_heads_are_forgotten_without_harm() -> None:
    decoder = Decoder()
    for _ in range(2):
        for n in range(HEADS_MAX + 2):
            assert decoder(f"m,t={n} v={n}") == [(f"m,t={n}.v", float(n), NOW)]
            assert len(decoder.decode._known) <= HEADS_MAX

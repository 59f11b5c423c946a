r"""Format `influx`: InfluxDB line protocol, versions 1 and 2 (docs.influxdata.com, reference/syntax/line-protocol).

  weather,site=north temperature=21.5,samples=12i,ok=true,state="fair" 1767225600000000000

Each line is a point: measurement, tags, fields, and perhaps a timestamp in the mapping's `precision`, without which
the arrival counts. Empty lines and those that begin with # are skipped. Floats, integers and booleans are readings as
float64, strings are texts.

What is one series in InfluxDB is one here, and what is two is two: the device is the topic's, and the metric is
`measurement.field`, with tags `measurement,tag=value.field`, the tags in the order of their names. Inside a name `,`
`=` and `\` get a backslash before them, and so does `.` in all but the field's: so no two have the same. With the
option `measurement` only lines of that measurement are taken, and the metric begins behind it. With the option
`device_tag` that tag must be the topic's device, and is left out.

Refused, always as a whole: a line that is none (a line end inside a string makes two such), a tag or field that comes
twice in a line, integers beyond 64 bits and floats beyond a float64, times outside 1970-2099, names that are none.
Limits: METRICS_MAX fields in a line, TEXT_BYTES_MAX per string, HEADS_MAX; the caller limits the payload.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import islice
from math import isfinite
from typing import NamedTuple

from edge_agent.config import Influx
from edge_agent.formats.fields import METRICS_MAX, TEXT_BYTES_MAX
from edge_agent.formats.influx_line import Point, expression, parse
from edge_agent.formats.times import from_epoch
from edge_agent.readings import Readings, SeriesIds
from telemetry.columns import NAN, TIME_FROM_DEVICE, TIME_FROM_GATEWAY
from telemetry.errors import FieldlineError

HEADS_MAX = 64
"""Measurements with their tags that are remembered, per topic."""
LEARNED_MAX = 8
"""Of one message: an expression costs a millisecond, and a message may have thousands of lines."""

_escaped = partial(re.compile(r"[,=.\\]").sub, r"\\\g<0>")
_escaped_field = partial(re.compile(r"[,=\\]").sub, r"\\\g<0>")
Match = Callable[[bytes], re.Match[bytes] | None]


class _Line(NamedTuple):
    """A line's readings. metrics: of the series whose ids are not known yet. shape: its fields and their kinds."""

    values: Sequence[float]
    texts: Mapping[int, str] | None
    ticks: int | None
    ids: tuple[int, ...] = ()
    metrics: tuple[str, ...] = ()
    shape: tuple[tuple[str, ...], str] | None = None


class InfluxDecoder:
    """The messages of one topic.

    Devices mostly send the same fields again. So of a head (measurement and tags) it remembers an expression for its
    fields, if they are numbers, and their ids; a line that is new, or does not fit, is read part by part.
    """

    __slots__ = ("_known", "_options", "_series")

    def __init__(self, series: SeriesIds, options: Influx) -> None:
        self._series = series
        self._options = options
        self._known: dict[bytes, tuple[Match, tuple[int, ...]]] = {}

    def __call__(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        """See `edge_agent.formats`; times in ms since 1970 UTC."""
        taken: list[tuple[bytes, _Line, float, int]] = []
        for number, raw in enumerate(payload.split(b"\n"), 1):
            head, _, rest = raw.partition(b" ")
            line = self._known_line(head, rest) or self._line(raw)
            if line is None:
                continue
            at: float = received_at_ms
            quality = TIME_FROM_GATEWAY
            if not isinstance(line, str) and line.ticks is not None:
                stamp = from_epoch(line.ticks, self._options.precision)
                if isinstance(stamp, str):
                    line = stamp
                else:
                    at, quality = stamp, TIME_FROM_DEVICE
            if isinstance(line, str):
                return f"line {number}: {line}"
            taken.append((head, line, at, quality))
        return self._add(taken, into)

    def _known_line(self, head: bytes, rest: bytes) -> _Line | None:
        """A line like one before."""
        known = self._known.get(head)
        match = known[0](rest) if known else None
        if not known or not match:
            return None
        *numbers, ticks = match.groups()
        values = [*map(float, numbers)]
        if not isfinite(sum(values)):  # perhaps one of them is not: that has a reason
            return None
        return _Line(values, None, None if ticks is None else int(ticks), known[1])

    def _line(self, raw: bytes) -> _Line | str | None:
        """Any line; None for one that says nothing."""
        raw = raw.strip()
        if not raw or raw.startswith(b"#"):
            return None
        try:
            point = parse(raw.decode())
        except UnicodeDecodeError:
            return "it is not valid UTF-8"
        if isinstance(point, str):
            return point
        metrics = _metrics(point, self._options, self._series.device)
        if isinstance(metrics, str):
            return metrics
        values = [NAN if isinstance(value, str) else value for value in point.fields.values()]
        texts = {place: value for place, value in enumerate(point.fields.values()) if isinstance(value, str)}
        if any(len(text.encode()) > TEXT_BYTES_MAX for text in texts.values()):
            return f"it has a string of more than {TEXT_BYTES_MAX} bytes"
        shape = None if b"\\" in raw else (tuple(point.fields), point.kinds)
        return _Line(values, texts, point.ticks, (), metrics, shape)

    def _add(self, taken: Sequence[tuple[bytes, _Line, float, int]], into: Readings) -> str | None:
        """Append what all lines say, and remember what is new."""
        if not taken:
            return "the payload has no line with readings"
        metrics = dict.fromkeys(metric for _, line, _, _ in taken for metric in line.metrics)
        try:
            self._series[tuple(metrics)]  # all of them or none
        except FieldlineError as error:
            return str(error)
        new: dict[bytes, _Line] = {}
        for head, line, at, quality in taken:
            into.add(line.ids or self._series[line.metrics], line.values, at, quality, line.texts)
            if line.shape and head:
                new[head] = line
        for head, line in islice(new.items(), LEARNED_MAX):
            self._learn(head, line)
        return None

    def _learn(self, head: bytes, line: _Line) -> None:
        match = expression(*line.shape) if line.shape else None
        if match is not None:
            if len(self._known) >= HEADS_MAX:
                self._known.clear()
            self._known[head] = match, self._series[line.metrics]


def _metrics(point: Point, options: Influx, device: str) -> tuple[str, ...] | str:
    """The metrics of a point's fields, or the reason why the line is refused."""
    if len(point.fields) > METRICS_MAX:
        return f"it has {len(point.fields)} fields, at most {METRICS_MAX} are allowed"
    if options.measurement not in (None, point.measurement):
        return f"its measurement is {point.measurement[:60]!r}, the mapping takes {options.measurement!r} only"
    tags = dict(point.tags)
    if options.device_tag is not None and (named := tags.pop(options.device_tag, "")) != device:
        return f"its tag {options.device_tag!r} must be the topic's device {device!r}, got {named[:60]!r}"
    parts = [] if options.measurement is not None else [_escaped(point.measurement)]
    parts += [f"{_escaped(tag)}={_escaped(value)}" for tag, value in sorted(tags.items())]
    before = f"{','.join(parts)}." if parts else ""
    return tuple(f"{before}{_escaped_field(field)}" for field in point.fields)

"""Topic mapping: which part of a topic names the device, and which format and units its metrics have.

A mapping's pattern is matched segment by segment: `{device}` takes a segment as the device's name, `{metric}` as
the metric's, `+` takes any segment, everything else must be equal. Of several `{metric}` the metric's name is all
of them, with / between them, which no segment contains: so two topics of a device never become one series. The
first mapping that matches wins. A CoAP path counts as a topic, and after the config's mappings comes COAP_MAPPING.

A topic is resolved once, and each combination of metrics that its messages bring is resolved once; then both
are a dictionary look-up. These are caches: what is evicted is resolved again, to the same ids, by the spool.

Limits: TOPICS_MAX topics, SHAPES_MAX combinations of at most SHAPE_METRICS_MAX metrics per topic, names of
NAME_CHARS_MAX characters and units of UNIT_CHARS_MAX. The number of series is limited by `series_id`, which raises
FieldlineError.
"""

from collections.abc import Callable, Iterable, Mapping

from edge_agent import config
from edge_agent.formats import FORMATS, Decode
from edge_agent.readings import NAME_CHARS_MAX, UNIT_CHARS_MAX, Metric
from telemetry.columns import Series
from telemetry.errors import FieldlineError

COAP_MAPPING = config.Mapping(topic="telemetry/{device}")
VALUE = "value"
"""The metric of a message that is one value, if its topic names none."""
TOPICS_MAX = 20_000
SHAPES_MAX = 16
SHAPE_METRICS_MAX = 256

SeriesId = Callable[[Series], int]
Route = str | tuple[str, tuple[str, ...]]
"""A topic, or a topic and the formats that a message of it says it may be in, the usual one first."""


class DeviceSeries(dict[tuple[Metric, ...], tuple[int, ...]]):
    """The series ids of one device by combination of metrics. Raises FieldlineError for a bad name or unit.


    metric: of messages that are one value.
    """

    def __init__(self, device: str, units: Mapping[str, str], series_id: SeriesId, metric: str = VALUE) -> None:
        super().__init__()
        self.device = device
        self.metric = metric
        self._units = units
        self._series_id = series_id
        self._ids: dict[Metric, int] = {}

    def __missing__(self, metrics: tuple[Metric, ...]) -> tuple[int, ...]:
        for metric in metrics:
            if metric not in self._ids:
                self._check(metric)
        ids = tuple(map(self._id, metrics))
        if len(metrics) <= SHAPE_METRICS_MAX:
            if len(self) >= SHAPES_MAX:
                self.clear()
            self[metrics] = ids
        return ids

    def _check(self, metric: Metric) -> None:
        name, unit = (metric, "") if isinstance(metric, str) else metric
        if fault := _fault(name):
            raise FieldlineError(f"the metric's name {name[:60]!r} {fault}")
        if len(unit) > UNIT_CHARS_MAX or not unit.isprintable():
            raise FieldlineError(f"the unit {unit[:60]!r} of {name[:60]!r} is no text of at most {UNIT_CHARS_MAX}")

    def _id(self, metric: Metric) -> int:
        known = self._ids.get(metric)
        if known is None:
            name, unit = (metric, "") if isinstance(metric, str) else metric
            if name in self._units and name != metric:
                return self._id(name)  # so that what is remembered stays as bounded as the series are
            known = self._series_id(Series(self.device, name, self._units.get(name, unit)))
            self._ids[metric] = known
        return known


class Routes(dict[Route, Decode]):
    """Route -> decoder, of topics seen lately. Raises FieldlineError, the reason, for one that no mapping takes."""

    def __init__(self, mappings: Iterable[config.Mapping], series_id: SeriesId) -> None:
        super().__init__()
        self._patterns = [(pattern(m.topic), m) for m in (*mappings, COAP_MAPPING)]
        self._series_id = series_id

    def __missing__(self, route: Route) -> Decode:
        topic, formats = (route, ()) if isinstance(route, str) else route
        segments = topic.split("/")
        for parts, mapping in self._patterns:
            if matches(parts, segments):
                device = segments[parts.index("{device}")]
                if fault := _fault(device):
                    raise FieldlineError(f"the device's name {device[:60]!r} {fault}")
                name = mapping.format if not formats or mapping.format in formats else formats[0]
                metric = _metric(parts, segments)
                decode = FORMATS[name](DeviceSeries(device, mapping.units, self._series_id, metric), mapping)
                if len(self) >= TOPICS_MAX:
                    del self[next(iter(self))]  # the one resolved longest ago
                self[route] = decode
                return decode
        raise FieldlineError(f"topic {topic[:200]!r} matches no mapping in gateway.toml")


def pattern(topic: str) -> list[str]:
    """A mapping's topic as its segments."""
    return topic.split("/")


def matches(parts: list[str], segments: list[str]) -> bool:
    """Whether a pattern matches a topic, both as segments."""
    return len(parts) == len(segments) and all(
        part == segment or part in config.PLACES for part, segment in zip(parts, segments, strict=True)
    )


def _metric(parts: list[str], segments: list[str]) -> str:
    """The metric that a topic names."""
    if "{metric}" not in parts:
        return VALUE
    return "/".join(segment for part, segment in zip(parts, segments, strict=True) if part == "{metric}")


def _fault(name: str) -> str | None:
    """What keeps a string from being a name."""
    if not name:
        return "is empty"
    if len(name) > NAME_CHARS_MAX:
        return f"has {len(name)} characters, at most {NAME_CHARS_MAX} are allowed"
    if not name.isprintable():
        return "has characters that cannot be printed"
    return None

"""Topic mapping: which part of a topic names the device, and which format and units its metrics have.

A mapping's pattern is matched segment by segment: `{device}` takes a segment as the device's name, `+` takes
any segment, everything else must be equal. The first mapping that matches wins. A CoAP path counts as a
topic, and after the config's mappings comes COAP_MAPPING.

A topic is resolved once, and each combination of metrics that its messages bring is resolved once; then both
are a dictionary look-up. These are caches: what is evicted is resolved again, to the same ids, by the spool.

Limits: TOPICS_MAX topics, SHAPES_MAX combinations of at most SHAPE_METRICS_MAX metrics per topic, names of
NAME_CHARS_MAX characters. The number of series is limited by `series_id`, which raises FieldlineError.
"""

from collections.abc import Callable, Iterable, Mapping

from edge_agent import config
from edge_agent.formats import FORMATS, Decode
from telemetry.columns import Series
from telemetry.errors import FieldlineError

COAP_MAPPING = config.Mapping(topic="telemetry/{device}")
NAME_CHARS_MAX = 128
TOPICS_MAX = 20_000
SHAPES_MAX = 16
SHAPE_METRICS_MAX = 256

SeriesId = Callable[[Series], int]


class DeviceSeries(dict[tuple[str, ...], tuple[int, ...]]):
    """The series ids of one device by combination of metrics. Raises FieldlineError for a bad name."""

    def __init__(self, device: str, units: Mapping[str, str], series_id: SeriesId) -> None:
        super().__init__()
        self._device = device
        self._units = units
        self._series_id = series_id
        self._ids: dict[str, int] = {}

    def __missing__(self, metrics: tuple[str, ...]) -> tuple[int, ...]:
        for metric in metrics:
            if metric not in self._ids and (fault := name_fault(metric)):
                raise FieldlineError(f"the metric's name {metric[:60]!r} {fault}")
        ids = tuple(map(self._id, metrics))
        if len(metrics) <= SHAPE_METRICS_MAX:
            if len(self) >= SHAPES_MAX:
                self.clear()
            self[metrics] = ids
        return ids

    def _id(self, metric: str) -> int:
        known = self._ids.get(metric)
        if known is None:
            known = self._series_id(Series(self._device, metric, self._units.get(metric, "")))
            self._ids[metric] = known
        return known


class Routes(dict[str, Decode]):
    """Topic -> decoder, of topics seen lately. Raises FieldlineError, the reason, for one that no mapping takes.

    special: gives the decoder of a topic that is not for the mappings, and remembers it as it likes.
    """

    def __init__(
        self,
        mappings: Iterable[config.Mapping],
        series_id: SeriesId,
        special: Callable[[str], Decode | None] = lambda _: None,
    ) -> None:
        super().__init__()
        self._special = special
        self._patterns = [(pattern(m.topic), m) for m in (*mappings, COAP_MAPPING)]
        self._series_id = series_id

    def __missing__(self, topic: str) -> Decode:
        if (special := self._special(topic)) is not None:
            return special
        segments = topic.split("/")
        for parts, mapping in self._patterns:
            if matches(parts, segments):
                device = segments[parts.index("{device}")]
                if fault := name_fault(device):
                    raise FieldlineError(f"the device's name {device[:60]!r} {fault}")
                decode = FORMATS[mapping.format](DeviceSeries(device, mapping.units, self._series_id), mapping)
                if len(self) >= TOPICS_MAX:
                    del self[next(iter(self))]  # the one resolved longest ago
                self[topic] = decode
                return decode
        raise FieldlineError(f"topic {topic[:200]!r} matches no mapping in gateway.toml")


def pattern(topic: str) -> list[str]:
    """A mapping's topic as its segments."""
    return topic.split("/")


def matches(parts: list[str], segments: list[str]) -> bool:
    """Whether a pattern matches a topic, both as segments."""
    return len(parts) == len(segments) and all(
        part in ("+", "{device}", segment) for part, segment in zip(parts, segments, strict=True)
    )


def name_fault(name: str) -> str | None:
    """What keeps a string from being a name."""
    if not name:
        return "is empty"
    if len(name) > NAME_CHARS_MAX:
        return f"has {len(name)} characters, at most {NAME_CHARS_MAX} are allowed"
    if not name.isprintable():
        return "has characters that cannot be printed"
    return None

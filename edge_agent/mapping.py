"""Topic mapping: which part of a topic names the device, and which format and units its metrics have.

A mapping's pattern is matched segment by segment: `{device}` takes a segment as the device's name, `{metric}` as
the metric's, `{site}` or any other name as that tag, `+` takes any segment, everything else must be equal. Of several
`{metric}` the metric's name is all of them, with / between them, which no segment contains: so two topics of a device
never become one series. The first mapping that matches wins. A CoAP path counts as a topic, and after the config's
mappings comes COAP_MAPPING.
Messages of an ignored mapping are acknowledged and counted, and leave no record: they get no seq, so the books of an
epoch, readings + dead letters + losses, know nothing of them. Its pattern may end in `#`, which stands for any rest.
`only` and `rename` know metrics by the device's names, `units` by those they have here. A name that `rename` gives to
one metric is refused for another, so that two things never become one series.

A topic is resolved once, and each combination of metrics that its messages bring is resolved once; then both
are a dictionary look-up. These are caches: what is evicted is resolved again, to the same ids, by the spool.

Limits: TOPICS_MAX topics, SHAPES_MAX combinations of at most SHAPE_METRICS_MAX metrics per topic, names of
NAME_CHARS_MAX characters and units of UNIT_CHARS_MAX. The number of series is limited by `series_id`, which raises
FieldlineError.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import suppress
from functools import lru_cache
from types import MappingProxyType

from edge_agent import config
from edge_agent.formats import FORMATS, Decode
from edge_agent.naming import NO_DEVICE, Naming
from edge_agent.readings import DROPPED, NAME_CHARS_MAX, UNIT_CHARS_MAX, Metric, Readings
from telemetry.columns import Series
from telemetry.errors import FieldlineError

COAP_MAPPING = config.Mapping(topic="telemetry/{device}")
VALUE = "value"
"""The metric of a message that is one value, if its topic names none."""
NOTHING: Mapping[str, str] = MappingProxyType({})
TOPICS_MAX = 100_000
SHAPES_MAX = 16
SHAPE_METRICS_MAX = 256
SPARKPLUG_DEVICES_MAX = 1000

SeriesId = Callable[[Series], int]
Route = str | tuple[str, tuple[str, ...]]
"""A topic, or a topic and the formats that a message of it says it may be in, the usual one first."""


class DeviceSeries(dict[tuple[Metric, ...], tuple[int, ...]]):
    """The series ids of one device by combination of metrics. Raises FieldlineError for a bad name or unit.

    device: as the topic names it; own: its section, of which the name and the ignored metrics count here. metric: of
    messages that are one value. only: the metrics that are taken, None for all; the id of others is DROPPED. rename:
    the device's name of a metric -> ours. tags: as `telemetry.tags` has them.
    """

    __slots__ = ("_ids", "_ignore", "_name", "_only", "_rename", "_series_id", "_tags", "_units", "device", "metric")

    def __init__(
        self,
        device: str,
        units: Mapping[str, str],
        series_id: SeriesId,
        metric: str = VALUE,
        *,
        only: Collection[str] | None = None,
        rename: Mapping[str, str] = NOTHING,
        own: config.Device = NO_DEVICE,
        tags: str = "",
    ) -> None:
        super().__init__()
        if len(set(rename.values())) < len(rename):
            raise FieldlineError(
                f"rename gives two metrics of {device[:60]!r} the same name, in its mapping and devices"
            )
        self._only, self._ignore = only, own.ignored
        self._name, self._tags = own.name or device, tags
        self._rename = rename
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
        if not self._takes(name):
            return
        if name not in self._rename and name in self._rename.values():
            raise FieldlineError(f"the metric {name!r} has the name that rename gives to another")
        if fault := name_fault(self._rename.get(name, name)):
            raise FieldlineError(f"the metric's name {name[:60]!r} {fault}")
        if len(unit) > UNIT_CHARS_MAX or not unit.isprintable():
            raise FieldlineError(f"the unit {unit[:60]!r} of {name[:60]!r} is no text of at most {UNIT_CHARS_MAX}")

    def _id(self, metric: Metric) -> int:
        known = self._ids.get(metric)
        if known is None:
            name, unit = (metric, "") if isinstance(metric, str) else metric
            if not self._takes(name):
                return DROPPED
            ours = self._rename.get(name, name)
            if ours in self._units and name != metric:
                return self._id(name)  # so that what is remembered stays as bounded as the series are
            known = self._series_id(Series(self._name, ours, self._units.get(ours, unit), self._tags))
            self._ids[metric] = known
        return known

    def _takes(self, name: str) -> bool:
        return name not in self._ignore and (self._only is None or name in self._only)


class Ignored:
    """The decoder of messages that are not wanted; it counts them."""

    count = 0

    def __call__(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:  # noqa: ARG002 - not wanted
        """Take nothing of it."""
        self.count += 1
        return None


class Selected:
    """A decoder of messages of which only some metrics are wanted."""

    def __init__(self, decode: Decode) -> None:
        self._decode = decode

    def __call__(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        """As the decoder, but for the readings that are dropped."""
        start = len(into.value)
        reason = self._decode(payload, received_at_ms, into)
        into.drop(start)
        return reason


class Routes(dict[Route, Decode]):
    """Route -> decoder, of topics seen lately. Raises FieldlineError, the reason, for one that no mapping takes.

    special: gives the decoder of a topic that is not for the mappings, and remembers it as it likes.
    """

    def __init__(
        self,
        mappings: Iterable[config.Mapping],
        series_id: SeriesId,
        special: Callable[[str], Decode | None] = lambda _: None,
        naming: Naming | None = None,
    ) -> None:
        super().__init__()
        self._naming = naming or Naming()
        self._special = special
        self._patterns = [(pattern(m.topic), m) for m in (*mappings, COAP_MAPPING)]
        self._series_id = series_id
        self.ignored = Ignored()

    def ignores(self, topic: str) -> bool:
        """Whether messages of a topic are not wanted."""
        with suppress(FieldlineError):
            return self[topic] is self.ignored
        return False

    def __missing__(self, route: Route) -> Decode:
        topic, formats = (route, ()) if isinstance(route, str) else route
        if (special := self._special(topic)) is not None:
            return special
        segments = topic.split("/")
        for parts, mapping in self._patterns:
            if matches(parts, segments):
                decode = self._decoder(parts, segments, mapping, formats)
                if len(self) >= TOPICS_MAX:
                    del self[next(iter(self))]  # the one resolved longest ago
                self[route] = decode
                return decode
        raise FieldlineError(f"topic {topic[:200]!r} matches no mapping in gateway.toml")

    def _decoder(
        self, parts: list[str], segments: list[str], mapping: config.Mapping, formats: tuple[str, ...]
    ) -> Decode:
        if mapping.ignore:
            return self.ignored
        device = segments[parts.index("{device}")]
        if fault := name_fault(device):
            raise FieldlineError(f"the device's name {device[:60]!r} {fault}")
        own = self._naming.of(device)
        if own.ignore is True:
            return self.ignored
        only = mapping.only if own.only is None else own.only
        series = DeviceSeries(
            device,
            {**mapping.units, **own.units},
            self._series_id,
            _metric(parts, segments),
            only=only,
            rename={**mapping.rename, **own.rename},
            own=own,
            tags=self._naming.tags(own, mapping.tags, _tags(parts, segments, mapping.topic)),
        )
        format_ = mapping.format if not formats or mapping.format in formats else formats[0]
        decode = FORMATS[format_](series, mapping)
        return decode if only is None and not own.ignored else Selected(decode)


def mapping_of(mappings: Iterable[config.Mapping], topic: str) -> tuple[int, config.Mapping] | None:
    """The first mapping that takes a topic, and its place in the config; COAP_MAPPING's is behind the last."""
    segments = topic.split("/")
    places = enumerate((*mappings, COAP_MAPPING))
    return next(((place, m) for place, m in places if matches(pattern(m.topic), segments)), None)


def pattern(topic: str) -> list[str]:
    """A mapping's topic as its segments."""
    return topic.split("/")


def matches(parts: list[str], segments: list[str]) -> bool:
    """Whether a pattern matches a topic, both as segments."""
    if parts[-1] == "#":
        parts, segments = parts[:-1], segments[: len(parts) - 1]
    return len(parts) == len(segments) and all(
        part == segment or config.is_place(part) for part, segment in zip(parts, segments, strict=True)
    )


def _metric(parts: list[str], segments: list[str]) -> str:
    """The metric that a topic names."""
    if "{metric}" not in parts:
        return VALUE
    return "/".join(segment for part, segment in zip(parts, segments, strict=True) if part == "{metric}")


def _tags(parts: list[str], segments: list[str], topic: str) -> dict[str, str]:
    """The tags that a topic names."""
    return {name: segments[parts.index(f"{{{name}}}")] for name in config.topic_tags(topic)}


def of_sparkplug(series_id: SeriesId, naming: Naming) -> SeriesId:
    """`series_id` for devices that have no mapping. Its id is DROPPED for what [devices] does not want."""

    @lru_cache(SPARKPLUG_DEVICES_MAX)
    def device_series(device: str) -> DeviceSeries | None:
        own = naming.of(device)
        if own.ignore is True:
            return None
        tags = naming.tags(own, NOTHING, NOTHING)
        return DeviceSeries(device, own.units, series_id, only=own.only, rename=own.rename, own=own, tags=tags)

    def id_of(series: Series) -> int:
        of = device_series(series.device)
        return DROPPED if of is None else of[((series.metric, series.unit),)][0]

    return id_of


def name_fault(name: str) -> str | None:
    """What keeps a string from being a name."""
    if not name:
        return "is empty"
    if len(name) > NAME_CHARS_MAX:
        return f"has {len(name)} characters, at most {NAME_CHARS_MAX} are allowed"
    if not name.isprintable():
        return "has characters that cannot be printed"
    return None

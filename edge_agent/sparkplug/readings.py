"""What births say of an edge node's or a device's metrics, and the readings that messages have because of it."""

from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.formats.times import AT_MS_MAX
from edge_agent.mapping import name_fault
from edge_agent.plausibility import DEVICE_MS_MIN
from edge_agent.readings import Readings
from edge_agent.sparkplug.payload import DATASET, Metric, Payload
from edge_agent.sparkplug.protobuf import WireError
from edge_agent.sparkplug.values import DATASET_TYPE, NoReadingError, Value, cells, value_of
from telemetry.columns import NAN, TIME_FROM_DEVICE, TIME_FROM_GATEWAY, Series
from telemetry.errors import FieldlineError

ONLINE = "sparkplug/online"
"""The metric that every edge node and every device gets."""

SeriesId = Callable[[Series], int]


@dataclass(slots=True)
class Definition:
    """What a birth says of a metric. id: of its series, -1 before its first value. fault: why its name is none."""

    name: str
    datatype: int
    unit: str
    is_transient: bool
    fault: str | None
    id: int = -1


@dataclass(slots=True)
class Origin:
    """The edge node itself, or a device of it. is_born: whether what its birth said still holds."""

    device: str
    names: dict[str, Definition] = field(default_factory=dict)
    aliases: dict[int | None, Definition] = field(default_factory=dict)
    is_born: bool = False
    is_online: bool = False

    def forget(self) -> None:
        """What was said of its metrics."""
        self.names, self.aliases, self.is_born = {}, {}, False

    def learn(self, payload: Payload) -> None:
        """What a birth says of its metrics."""
        self.forget()
        for metric in payload.metrics:
            if metric.name is not None:
                definition = self.names[metric.name] = _defined(metric, metric.name)
                if metric.alias is not None:
                    self.aliases[metric.alias] = definition
        self.is_born = self.is_online = True


def _defined(metric: Metric, name: str) -> Definition:
    return Definition(name, metric.datatype, metric.unit, bool(metric.is_transient), name_fault(name))


class Taken:
    """The readings of one message, and why some of its metrics are none."""

    def __init__(self, series_id: SeriesId, sent_at_ms: int | None, at_ms: int) -> None:
        self._series_id = series_id
        self._at, self._quality = at_ms, TIME_FROM_GATEWAY
        if sent_at_ms is not None and DEVICE_MS_MIN <= sent_at_ms < AT_MS_MAX:
            self._at, self._quality = sent_at_ms, TIME_FROM_DEVICE
        self._series: list[int] = []
        self._values: list[float] = []
        self._times: list[int] = []
        self._qualities: list[int] = []
        self._texts: dict[int, str] = {}
        self._faults: list[str] = []
        self.has_unknown = False

    def online(self, origin: Origin, value: float, at_ms: int | None = None) -> None:
        """Add a birth or a death; at_ms: if not at the payload's time."""
        origin.is_online = bool(value)
        quality = self._quality if at_ms is None else TIME_FROM_GATEWAY
        try:
            self._add_named(origin, ONLINE, "", value, self._at if at_ms is None else at_ms, quality)
        except FieldlineError as fault:
            self._faults.append(str(fault))

    def all(self, origin: Origin, payload: Payload, into: Readings) -> str | None:
        """Add the metrics of a payload, and hand everything over. The reason if something is no reading."""
        if payload.has_body:
            self._faults.append("the payload has a body, which is no reading")
        for metric in payload.metrics:
            try:
                self._metric(origin, metric)
            except (NoReadingError, WireError, FieldlineError) as fault:
                self._faults.append(str(fault))
        start = len(into.value)
        into.texts.update((start + place, text) for place, text in self._texts.items())
        into.series += self._series
        into.value += self._values
        into.measured_at += self._times
        into.quality += self._qualities
        if not self._faults:
            return None
        if len(payload.metrics) <= 1:
            return self._faults[0]
        count = f"{len(self._faults)} of {len(payload.metrics)} metrics are no readings, the others were taken"
        return f"{self._faults[0]} ({count})"

    def _metric(self, origin: Origin, metric: Metric) -> None:
        name, alias = metric.name, metric.alias
        known = origin.names.get(name) if name is not None else origin.aliases.get(alias)
        if known is None:
            self.has_unknown = True
            if name is None or not metric.datatype:
                raise NoReadingError(f"{_called(metric)} is in no birth certificate of the session")
        definition = known or _defined(metric, name or "")
        if not metric.tag or metric.is_transient or definition.is_transient:
            return
        if definition.fault:
            raise NoReadingError(f"the metric's name {definition.name[:60]!r} {definition.fault}")
        try:
            self._value(origin, definition, metric)
        except (NoReadingError, WireError) as fault:
            raise NoReadingError(f"{_called(metric, definition)} {fault}") from None

    def _value(self, origin: Origin, definition: Definition, metric: Metric) -> None:
        at, quality = metric.timestamp, metric.quality
        if at is None or not DEVICE_MS_MIN <= at < AT_MS_MAX:
            at, quality = self._at, quality | self._quality
        datatype = metric.datatype or definition.datatype
        if datatype == DATASET_TYPE and metric.tag == DATASET:
            for place, cell in [(place, value_of(*cell)) for place, *cell in cells(metric.value)]:
                self._add_named(origin, f"{definition.name}/{place}", definition.unit, cell, at, quality)
            return
        value = value_of(datatype, metric.tag, metric.value)
        if value is not None:
            if definition.id < 0:
                definition.id = self._series_id(Series(origin.device, definition.name, definition.unit))
            self._add(definition.id, value, at, quality)

    def _add_named(self, origin: Origin, name: str, unit: str, value: Value, at_ms: int, quality: int) -> None:
        if value is None:
            return
        if fault := name_fault(name):
            raise FieldlineError(f"the metric's name {name[:60]!r} {fault}")
        self._add(self._series_id(Series(origin.device, name, unit)), value, at_ms, quality)

    def _add(self, id_: int, value: float | str, at_ms: int, quality: int) -> None:
        if isinstance(value, str):
            self._texts[len(self._values)] = value
            value = NAN
        self._series.append(id_)
        self._values.append(value)
        self._times.append(at_ms)
        self._qualities.append(quality)


def _called(metric: Metric, definition: Definition | None = None) -> str:
    """A metric as sentences call it."""
    name = definition.name if definition else metric.name
    if name is not None:
        return f"metric {name[:60]!r}"
    return "a metric without name and alias" if metric.alias is None else f"alias {metric.alias}"

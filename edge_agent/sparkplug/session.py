"""One edge node's Sparkplug session, as a host application keeps it (Sparkplug 3.0, chapter 5). Pure: no clock, no I/O.

A payload goes in, its readings come out (`into`). What cannot become a reading comes back as a reason, beside the
readings of what can: the caller keeps the whole message as a dead letter.

  NBIRTH    begins a session: what it says of its metrics (name, alias, datatype, unit) holds until the next NBIRTH or
            NDEATH. It forgets what DBIRTHs said, for the node repeats them all; devices that were online in a session
            with another bdSeq are offline
  DBIRTH    says the same of a device
  NDATA     has values, by name or by alias; so has DDATA
  DDEATH    ends a device's births
  NDEATH    ends the session and all its devices, if it has the bdSeq of the NBIRTH; else it comes late, from a session
            before, and changes nothing

Each metric with a value is a reading, whatever brings it: at its own time, else at the payload's, and if that is not
in 2000-2099, at its arrival. Null is none; nor is a transient metric, of which Sparkplug says not to store it. Birth
and death are readings, too: ONLINE is 1 from a birth on and 0 from a death on, for the node and for each device.

A rebirth is wanted when seq has a gap, after a restart of the agent (who knows what was missed), and when a message
needs a birth certificate that is not there.

Limits: DEVICES_MAX per node; everything else is bounded by what the caller bounds, payloads and series.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from edge_agent.formats.json import AT_MS_MAX, AT_MS_MIN
from edge_agent.mapping import name_fault
from edge_agent.readings import Readings
from edge_agent.sparkplug.payload import DATASET, Metric, Payload
from edge_agent.sparkplug.protobuf import WireError
from edge_agent.sparkplug.values import DATASET_TYPE, NoReadingError, Value, cells, value_of
from telemetry.columns import NAN, TIME_FROM_DEVICE, TIME_FROM_GATEWAY, Series
from telemetry.errors import FieldlineError

ONLINE = "sparkplug/online"
"""The metric that every edge node and every device gets."""
BD_SEQ = "bdSeq"
SEQ_MODULUS = 256
DEVICES_MAX = 4096
RESTARTED = "the agent was restarted"

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


class EdgeNode:
    """name: Fieldline's device for it; of a device of it, with / and the device's id behind."""

    def __init__(self, name: str, series_id: SeriesId) -> None:
        self._name = name
        self._series_id = series_id
        self._node = Origin(name)
        self._devices: dict[str, Origin] = {}
        self._bd_seq: int | None = None
        self._seq: int | None = None
        self.wants_rebirth = ""

    @property
    def births(self) -> set[str]:
        """Whose births hold: ids of devices, "" for the node itself."""
        born = {id_ for id_, origin in self._devices.items() if origin.is_born}
        return born | {""} if self._node.is_born else born

    def restore(self, device: str, payload: Payload) -> None:
        """A birth from before a restart of the agent."""
        self._origin(device).learn(payload)
        if not device:
            self._bd_seq = _bd_seq(payload)
        self.wants_rebirth = RESTARTED

    def forget(self, device: str) -> None:
        """A birth came that cannot be read: what the one before said does not hold any more."""
        if not device:
            self._node.forget()
        for id_, origin in self._devices.items():
            if device in ("", id_):
                origin.forget()

    def birth(self, device: str, payload: Payload, at_ms: int, into: Readings) -> str | None:
        """NBIRTH, and DBIRTH of a device, that arrived at at_ms. The reason, as with all that follow."""
        origin = self._origin(device)
        taken = _Taken(self._series_id, payload.timestamp, at_ms)
        if device:
            self._follow(payload.seq)
            self._needs(self._node)
        else:
            bd_seq = _bd_seq(payload)
            if self._node.is_born and bd_seq != self._bd_seq:
                self._end_devices(taken, at_ms)
            for other in self._devices.values():
                other.forget()
            self._bd_seq, self._seq, self.wants_rebirth = bd_seq, payload.seq, ""
        origin.learn(payload)
        taken.online(origin, 1.0)
        return taken.all(origin, payload, into)

    def data(self, device: str, payload: Payload, at_ms: int, into: Readings) -> str | None:
        """NDATA and DDATA."""
        origin = self._devices.get(device) or Origin(f"{self._name}/{device}") if device else self._node
        self._follow(payload.seq)
        self._needs(self._node)
        self._needs(origin)
        taken = _Taken(self._series_id, payload.timestamp, at_ms)
        reason = taken.all(origin, payload, into)
        if taken.has_unknown and not self.wants_rebirth:
            self.wants_rebirth = f"a metric of {origin.device!r} is in no birth certificate"
        return reason

    def death(self, device: str, payload: Payload, at_ms: int, into: Readings) -> str | None:
        """NDEATH and DDEATH. A node's counts from its arrival: what it says was written when the node connected."""
        if device:
            self._follow(payload.seq)
            self._needs(self._node)
            taken = _Taken(self._series_id, payload.timestamp, at_ms)
            taken.online(self._origin(device), 0.0)
            del self._devices[device]
        else:
            bd_seq = _bd_seq(payload)
            if self._node.is_born and bd_seq != self._bd_seq:
                return f"the NDEATH has bdSeq {bd_seq}, the session has {self._bd_seq}: it came late, nothing has died"
            taken = _Taken(self._series_id, None, at_ms)
            self._end_devices(taken, at_ms)
            taken.online(self._node, 0.0)
            self._node.forget()
            self._bd_seq, self._seq, self.wants_rebirth = None, None, ""
        return taken.all(self._node, Payload(None, None, []), into)

    def _origin(self, device: str) -> Origin:
        if not device:
            return self._node
        origin = self._devices.get(device)
        if origin is None:
            if len(self._devices) >= DEVICES_MAX:
                raise FieldlineError(f"edge node {self._name!r} already has {DEVICES_MAX} devices")
            origin = self._devices[device] = Origin(f"{self._name}/{device}")
        return origin

    def _end_devices(self, taken: "_Taken", at_ms: int) -> None:
        for origin in self._devices.values():
            if origin.is_online:
                taken.online(origin, 0.0, at_ms)
        self._devices.clear()

    def _follow(self, seq: int | None) -> None:
        """Whether seq is the next one. Without a seq nothing can be said."""
        if seq is not None:
            if self._seq is not None and seq != (self._seq + 1) % SEQ_MODULUS and not self.wants_rebirth:
                self.wants_rebirth = f"seq {seq} came after {self._seq}"
            self._seq = seq

    def _needs(self, origin: Origin) -> None:
        if not origin.is_born and not self.wants_rebirth:
            self.wants_rebirth = f"there is no birth certificate of {origin.device!r}"


class _Taken:
    """The readings of one message, and why some of its metrics are none."""

    def __init__(self, series_id: SeriesId, sent_at_ms: int | None, at_ms: int) -> None:
        self._series_id = series_id
        self._at, self._quality = at_ms, TIME_FROM_GATEWAY
        if sent_at_ms is not None and AT_MS_MIN <= sent_at_ms < AT_MS_MAX:
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
        if at is None or not AT_MS_MIN <= at < AT_MS_MAX:
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


def _bd_seq(payload: Payload) -> int | None:
    for metric in payload.metrics:
        if metric.name == BD_SEQ and metric.tag and isinstance(metric.value, int):
            return metric.value
    return None

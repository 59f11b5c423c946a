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

from edge_agent.readings import Readings
from edge_agent.sparkplug.payload import Payload
from edge_agent.sparkplug.readings import Origin, SeriesId, Taken
from telemetry.errors import FieldlineError

BD_SEQ = "bdSeq"
SEQ_MODULUS = 256
DEVICES_MAX = 4096
RESTARTED = "the agent was restarted"


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

    def is_born(self, device: str) -> bool:
        """Whether a birth holds, of a device or of the node itself."""
        origin = self._devices.get(device) if device else self._node
        return origin is not None and origin.is_born

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
        taken = Taken(self._series_id, payload.timestamp, at_ms)
        if device:
            self._follow(payload.seq)
            self._needs_node()
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
        self._needs_node()
        taken = Taken(self._series_id, payload.timestamp, at_ms)
        reason = taken.all(origin, payload, into)
        if taken.has_unknown and not self.wants_rebirth:
            self.wants_rebirth = f"a metric of {origin.device!r} is in no birth certificate"
        return reason

    def death(self, device: str, payload: Payload, at_ms: int, into: Readings) -> str | None:
        """NDEATH and DDEATH. A node's counts from its arrival: what it says was written when the node connected."""
        if device:
            self._follow(payload.seq)
            self._needs_node()
            taken = Taken(self._series_id, payload.timestamp, at_ms)
            taken.online(self._origin(device), 0.0)
            del self._devices[device]
        else:
            bd_seq = _bd_seq(payload)
            if self._node.is_born and bd_seq != self._bd_seq:
                return f"the NDEATH has bdSeq {bd_seq}, the session has {self._bd_seq}: it came late, nothing has died"
            taken = Taken(self._series_id, None, at_ms)
            self._end_devices(taken, at_ms)
            taken.online(self._node, 0.0)
            self._node.forget()
            self._bd_seq, self._seq, self.wants_rebirth = None, None, ""
        return taken.all(self._node, Payload(), into)

    def _origin(self, device: str) -> Origin:
        if not device:
            return self._node
        origin = self._devices.get(device)
        if origin is None:
            if len(self._devices) >= DEVICES_MAX:
                raise FieldlineError(f"edge node {self._name!r} already has {DEVICES_MAX} devices")
            origin = self._devices[device] = Origin(f"{self._name}/{device}")
        return origin

    def _end_devices(self, taken: Taken, at_ms: int) -> None:
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

    def _needs_node(self) -> None:
        if not self._node.is_born and not self.wants_rebirth:
            self.wants_rebirth = "there is no birth certificate of the node"


def _bd_seq(payload: Payload) -> int | None:
    for metric in payload.metrics:
        if metric.name == BD_SEQ and metric.tag and isinstance(metric.value, int):
            return metric.value
    return None

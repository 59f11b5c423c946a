"""Where Sparkplug's sessions live: between the collectors, whose messages have no memory, and the columns.

`decoder(topic)` gives what decodes the messages of a topic, as formats do, with a contract of its own:
- What becomes of a message depends on the messages of its edge node before it, in the order of their arrival.
- The readings that a message has are appended; if something of it can be none, the reason comes back as well, and the
  caller keeps the message as a dead letter beside its readings. So nothing of a message is lost.
- No payload raises. Time is linear in the payload's length.
- `take` says what else has to happen: births to remember or to forget, durable together with the readings of the same
  messages; and commands to publish once that is done. What was remembered is given back when the room is made again.

Not a reading and no dead letter: NCMD and DCMD, which are commands of hosts (ours, too), and STATE.

A rebirth is asked for by NCMD when a session wants one, once in rebirth_interval_s per node and once in
REBIRTH_EVERY_MS in all. A node that still wants one is asked again with its next message.

Limits: NODES_MAX edge nodes; BIRTHS_BYTES_MAX of births.
"""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from edge_agent.config import Sparkplug as SparkplugConfig
from edge_agent.formats import Decode
from edge_agent.mapping import TOPICS_MAX, name_fault
from edge_agent.readings import Readings
from edge_agent.sparkplug.payload import Payload, parse, rebirth_request
from edge_agent.sparkplug.protobuf import WireError
from edge_agent.sparkplug.readings import SeriesId
from edge_agent.sparkplug.session import EdgeNode
from telemetry.errors import FieldlineError

log = logging.getLogger(__name__)

NAMESPACE = "spBv1.0"
NODES_MAX = 10_000
BIRTHS_BYTES_MAX = 64 * 1024 * 1024
REBIRTH_EVERY_MS = 100

_BIRTHS = ("NBIRTH", "DBIRTH")
_ACTS: dict[str, Callable[[EdgeNode, str, Payload, int, Readings], str | None]] = {
    "NBIRTH": EdgeNode.birth,
    "DBIRTH": EdgeNode.birth,
    "NDATA": EdgeNode.data,
    "DDATA": EdgeNode.data,
    "NDEATH": EdgeNode.death,
    "DDEATH": EdgeNode.death,
}


@dataclass(slots=True)
class Todo:
    """births: topic -> payload to remember, None to forget. commands: (topic, payload) to publish."""

    births: dict[str, bytes | None] = field(default_factory=dict)
    commands: list[tuple[str, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class _Member:
    """An edge node in the room. asked_at_ms: for its last rebirth."""

    group: str
    node: str
    session: EdgeNode
    asked_at_ms: int | None = None

    def topic(self, kind: str, device: str = "") -> str:
        return "/".join((NAMESPACE, self.group, kind, self.node, *([device] if device else [])))

    def birth_topic(self, device: str) -> str:
        return self.topic("DBIRTH" if device else "NBIRTH", device)


class Room:
    """births: what the room had remembered, topic -> payload."""

    def __init__(self, config: SparkplugConfig, series_id: SeriesId, births: Mapping[str, bytes]) -> None:
        self._config = config
        self._series_id = series_id
        self._members: dict[tuple[str, str], _Member] = {}
        self._decoders: dict[str, Decode] = {}
        self._remembered: dict[str, int] = {}  # topic -> bytes
        self._remembered_bytes = 0
        self._asked_at_ms: int | None = None
        self._todo = Todo()
        for topic, payload in births.items():
            self._restore(topic, payload)

    def take(self) -> Todo:
        """What the messages since the last call have led to."""
        todo, self._todo = self._todo, Todo()
        return todo

    def decoder(self, topic: str) -> Decode | None:
        """None outside of Sparkplug's namespace. Raises FieldlineError, the reason, for a topic that is wrong in it."""
        known = self._decoders.get(topic)
        if known is None and is_sparkplug(topic):
            if len(self._decoders) >= TOPICS_MAX:
                self._decoders.clear()
            known = self._decoders[topic] = self._decoder(topic)
        return known

    def _decoder(self, topic: str) -> Decode:
        kind, group, node, device = _parts(topic)
        if kind not in _ACTS:  # NCMD, DCMD, STATE
            return _nothing
        name = self._name(group, node)
        if fault := name_fault(f"{name}/{device}" if device else name):
            raise FieldlineError(f"the edge node's or device's name {name[:60]!r} {fault}")
        key = group, node

        def decode(payload: bytes, received_at_ms: int, into: Readings) -> str | None:
            return self._decode(kind, key, device, payload, received_at_ms, into)

        return decode

    def _decode(
        self, kind: str, key: tuple[str, str], device: str, payload: bytes, received_at_ms: int, into: Readings
    ) -> str | None:
        member = self._members.get(key) or self._join(key)
        session = member.session
        try:
            parsed = parse(payload)
        except WireError as error:
            self._miss(member, kind, device)
            return f"the payload is no Sparkplug B payload: {error}"
        if kind in ("NDATA", "DDATA"):
            reason = session.data(device, parsed, received_at_ms, into)
        else:
            if kind in _BIRTHS and (fault := self._no_room(member.birth_topic(device), len(payload))):
                self._miss(member, kind, device)
                return fault
            with self._forgetting(member, device):
                reason = _ACTS[kind](session, device, parsed, received_at_ms, into)
            if kind in _BIRTHS:
                self._remember(member.birth_topic(device), payload)
        if session.wants_rebirth:
            self._ask(member, received_at_ms)
        return reason

    def missed(self, topic: str) -> None:
        """A message came, and nobody could read it."""
        with suppress(FieldlineError):
            kind, group, node, device = _parts(topic)
            if is_sparkplug(topic) and (member := self._members.get((group, node))):
                self._miss(member, kind, device)

    def _miss(self, member: _Member, kind: str, device: str) -> None:
        """A birth that cannot be read has taken its place from the one before."""
        if kind in _BIRTHS:
            with self._forgetting(member, device):
                member.session.forget(device)

    @contextmanager
    def _forgetting(self, member: _Member, device: str) -> Iterator[None]:
        """Whatever births end meanwhile: the device's, or those of the node and all its devices."""
        before = {device} if device else member.session.births
        yield
        for id_ in before:
            if not member.session.is_born(id_):
                self._forget(member.birth_topic(id_))

    def _name(self, group: str, node: str) -> str:
        return f"{group}/{node}" if self._config.device == "group/node/device" else node

    def _join(self, key: tuple[str, str]) -> _Member:
        if len(self._members) >= NODES_MAX:
            stranger = next((key for key, member in self._members.items() if not member.session.births), None)
            if stranger is None:
                raise FieldlineError(f"the gateway already has {NODES_MAX} Sparkplug edge nodes")
            del self._members[stranger]
        member = self._members[key] = _Member(*key, EdgeNode(self._name(*key), self._series_id))
        return member

    def _no_room(self, topic: str, size: int) -> str | None:
        held = self._remembered_bytes - self._remembered.get(topic, 0)
        if held + size > BIRTHS_BYTES_MAX:
            return f"the gateway's birth certificates already have {held} bytes, at most {BIRTHS_BYTES_MAX} are kept"
        return None

    def _remember(self, topic: str, payload: bytes) -> None:
        self._forget(topic)
        self._todo.births[topic] = payload
        self._count(topic, payload)

    def _forget(self, topic: str) -> None:
        self._todo.births[topic] = None
        self._remembered_bytes -= self._remembered.pop(topic, 0)

    def _count(self, topic: str, payload: bytes) -> None:
        self._remembered[topic] = len(payload)
        self._remembered_bytes += len(payload)

    def _restore(self, topic: str, payload: bytes) -> None:
        try:
            _, group, node, device = _parts(topic)
            member = self._members.get((group, node)) or self._join((group, node))
            member.session.restore(device, parse(payload))
        except (FieldlineError, WireError) as error:  # written by another version: as if it had not come
            log.warning("A Sparkplug birth certificate in the spool cannot be read: %s", error)
            self._todo.births[topic] = None
        else:
            self._count(topic, payload)

    def _ask(self, member: _Member, now_ms: int) -> None:
        """Ask for a rebirth, unless it is too early for that."""
        if not self._config.request_rebirth:
            return
        interval_ms = self._config.rebirth_interval_s * 1000
        if _within(member.asked_at_ms, now_ms, interval_ms) or _within(self._asked_at_ms, now_ms, REBIRTH_EVERY_MS):
            return
        member.asked_at_ms = self._asked_at_ms = now_ms
        log.info("Asking edge node %s/%s for a rebirth: %s.", member.group, member.node, member.session.wants_rebirth)
        self._todo.commands.append((member.topic("NCMD"), rebirth_request(now_ms)))


def is_sparkplug(topic: str) -> bool:
    """Whether a topic or a topic filter is in Sparkplug's namespace."""
    return topic.split("/", 1)[0] == NAMESPACE


def _parts(topic: str) -> tuple[str, str, str, str]:
    """Message type, group, edge node, device; group and node are empty for STATE. Raises FieldlineError."""
    match topic.split("/"):
        case [_, "STATE", _]:
            return "STATE", "", "", ""
        case [_, group, ("NBIRTH" | "NDATA" | "NDEATH" | "NCMD") as kind, node] if group and node:
            return kind, group, node, ""
        case [_, group, ("DBIRTH" | "DDATA" | "DDEATH" | "DCMD") as kind, node, device] if group and node and device:
            return kind, group, node, device
    raise FieldlineError(f"topic {topic[:200]!r} is none of Sparkplug's, spBv1.0/GROUP/TYPE/NODE with /DEVICE or not")


def _nothing(payload: bytes, received_at_ms: int, into: Readings) -> str | None:  # noqa: ARG001 - as Decode has it
    return None


def _within(since_ms: int | None, now_ms: int, duration_ms: float) -> bool:
    """A clock that was set back does not make anybody wait."""
    return since_ms is not None and 0 <= now_ms - since_ms < duration_ms

"""Hears what device broker and agent say to each other: every PUBACK must be for the oldest PUBLISH without one.

MQTT 3.1.1, 4.6.0-2, and the promise's first half. Shares no code with the pipeline, on purpose; it knows of MQTT
what it needs: the fixed header (2.2), the packet ids of PUBLISH (3.3.2) and PUBACK (3.4.2).
"""

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

PUBLISH, PUBACK = 3, 4
QOS_BITS = 0x06


@dataclass(slots=True)
class Witness:
    """Of all connections of a drill. acknowledged: PUBACKs heard; wrong: sentences about those out of order."""

    acknowledged: int = 0
    wrong: list[str] = field(default_factory=list)

    def __call__(self) -> "Ear":
        """For the next connection."""
        return Ear(self)

    def sentences(self) -> list[str]:
        """For people; empty when all were in order."""
        return [f"{len(self.wrong)} acknowledgements were out of order, such as: {self.wrong[0]}"] if self.wrong else []


@dataclass(slots=True)
class Packets:
    """A stream of MQTT packets, in any cut."""

    _rest: bytes = b""

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The first byte and the body behind the fixed header, of each packet that is complete."""
        data, at = self._rest + data, 0
        while (found := _length(data, at + 1)) is not None:
            start, length = found
            if start + length > len(data):
                break
            yield data[at], data[start : start + length]
            at = start + length
        self._rest = data[at:]


@dataclass(slots=True)
class Ear:
    """One connection."""

    witness: Witness
    _open: deque[int] = field(default_factory=deque)
    _agent: Packets = field(default_factory=Packets)
    _broker: Packets = field(default_factory=Packets)

    def answers(self, data: bytes) -> None:
        """What the broker says."""
        for first, body in self._broker.feed(data):
            if first >> 4 == PUBLISH and first & QOS_BITS:
                at = 2 + int.from_bytes(body[:2])
                self._open.append(int.from_bytes(body[at : at + 2]))

    def words(self, data: bytes) -> None:
        """What the agent says."""
        for first, body in self._agent.feed(data):
            if first >> 4 == PUBACK:
                self._acknowledge(int.from_bytes(body[:2]))

    def _acknowledge(self, packet_id: int) -> None:
        self.witness.acknowledged += 1
        oldest = self._open.popleft() if self._open else None
        if packet_id != oldest:
            expected = "nothing was open" if oldest is None else f"message {oldest} was the oldest open one"
            self.witness.wrong.append(f"message {packet_id} was acknowledged, {expected}")


def _length(data: bytes, at: int) -> tuple[int, int] | None:
    """Where the body begins and how long it is; None when bytes are missing."""
    length = 0
    for place in range(4):
        if at + place >= len(data):
            return None
        byte = data[at + place]
        length |= (byte & 0x7F) << 7 * place
        if byte < 0x80:
            return at + place + 1, length
    raise ValueError("not a stream of MQTT packets")

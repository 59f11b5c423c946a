"""The decoding half of MQTT 3.1.1 and 5, client's side: what a broker sends, from bytes. Pure: no clock, no I/O.

`Decoder.feed(data)` takes the byte stream in any cut and returns everything that is complete: PUBLISH packets
as parallel lists (no object per message), PUBACK ids as a list, the rest as small tuples (`controls`).
A PUBLISH's properties (MQTT 5) are skipped by their length: none has a meaning for us. The one that would, the
topic alias, a broker may not use, because our CONNECT does not offer it (3.1.2.11.5).

Limits: of a PUBLISH longer than `packet_bytes_max` at most `keep_bytes` more are buffered. It is skipped while
it streams in and, when it has ended, reported with the first `keep_bytes` of its payload and its true size, so
that it can become a dead letter and be acknowledged; refusing it would make the broker redeliver it for ever.
Any other packet of that length is an error. The cache of topics holds at most `TOPICS_MAX`. QoS 2 is an error:
we never subscribe with it.

A topic that MQTT forbids (not UTF-8, a null character, a wildcard) is taken, with what cannot be shown as
backslash escapes. 1.5.3 would have us close the connection, but some brokers let such a topic in and would
send it again after every reconnect: one broken device would stop the gateway.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

from broker_bridge.mqtt import controls
from broker_bridge.mqtt.controls import Control
from broker_bridge.mqtt.packets import (
    DUP,
    PUBACK,
    PUBLISH,
    QOS_1,
    QOS_BITS,
    RETAIN,
    ProtocolError,
    Version,
    check_packet_id,
    decode_length,
)

TOPICS_MAX = 50_000


@dataclass(slots=True)
class Messages:
    """PUBLISH packets in the order of arrival; entry i of every list belongs to message i.

    packet_ids: 0 for QoS 0. redelivered, retained: indexes with the DUP, the RETAIN flag.
    oversized: index -> true payload size in bytes, where `payloads` has only the beginning.
    """

    topics: list[str] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    packet_ids: list[int] = field(default_factory=list)
    redelivered: set[int] = field(default_factory=set)
    retained: set[int] = field(default_factory=set)
    oversized: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.topics)


@dataclass(slots=True)
class Received:
    """What one `feed` completed."""

    messages: Messages = field(default_factory=Messages)
    pubacks: list[int] = field(default_factory=list)
    controls: list[Control] = field(default_factory=list)


class _Skipped(NamedTuple):
    """A PUBLISH that is too long to buffer, until its last byte has passed."""

    header: int
    topic: str
    packet_id: int
    beginning: bytes
    payload_bytes: int


class _Topics(dict[bytes, str]):
    """Topics by their bytes, decoded once."""

    def __missing__(self, raw: bytes) -> str:
        topic = raw.decode(errors="backslashreplace").replace("\0", "\\x00")
        if len(self) >= TOPICS_MAX:
            self.clear()
        self[raw] = topic
        return topic


class Decoder:
    """Incremental parser of what a broker sends. After a ProtocolError it must not be used any more."""

    def __init__(self, packet_bytes_max: int, keep_bytes: int, version: Version = "3.1.1") -> None:
        self.packet_bytes_max = packet_bytes_max
        self.keep_bytes = keep_bytes
        self._v5 = version == "5"
        self._kinds, self._control = controls.KINDS[version]
        self._topics = _Topics()
        self._parts: list[bytes] = []  # of the incomplete packet; joined once, when it is complete
        self._parts_bytes = 0
        self._need_bytes = 0
        self._skipped: _Skipped | None = None
        self._skip_bytes = 0

    def feed(self, data: bytes) -> Received:
        """Parse the next bytes of the stream; returns what they complete. Raises ProtocolError."""
        received = Received()
        if self._skipped is not None:
            data = self._skip(self._skipped, data, received.messages)
        if self._parts:
            self._parts.append(data)
            self._parts_bytes += len(data)
            if self._parts_bytes < self._need_bytes:
                return received
            data = b"".join(self._parts)
        rest = data[self._parse(data, received) :]
        self._parts = [rest] if rest else []
        self._parts_bytes = len(rest)
        return received

    def _parse(self, data: bytes, received: Received) -> int:
        """The hot loop: QoS 1 messages and PUBACKs here, all else in `_other`. Returns the bytes consumed."""
        messages = received.messages
        topics, payloads, packet_ids = messages.topics, messages.payloads, messages.packet_ids
        known, packet_bytes_max, v5 = self._topics, self.packet_bytes_max, self._v5
        position, end = 0, len(data)
        while end - position >= 2:
            header, length, body = data[position], data[position + 1], position + 2
            if length > 127:
                if body < end and data[body] < 128:  # two digits, as it mostly is
                    length += (data[body] << 7) - 128
                    body += 1
                else:
                    length, body = decode_length(data, position + 1)
                    if not body:
                        break
            stop = body + length
            if header == PUBLISH | QOS_1 and length > 4 and stop <= end and stop - position <= packet_bytes_max:
                topic_stop = body + 2 + (data[body] << 8 | data[body + 1])
                start = topic_stop + 2
                if v5:
                    short = start < stop and data[start] < 128
                    start = start + 1 + data[start] if short else _behind_properties(data, start, stop)
                if start > stop:
                    raise ProtocolError(_CUT_PUBLISH)
                topics.append(known[data[body + 2 : topic_stop]])
                packet_ids.append(data[topic_stop] << 8 | data[topic_stop + 1] or check_packet_id(0))
                payloads.append(data[start:stop])
            elif header == PUBACK and length == 2 and stop <= end:
                received.pubacks.append(data[body] << 8 | data[body + 1])
            else:
                stop = self._other(data, position, body, stop, received)
                if not stop:
                    return position
            position = stop
        self._need_bytes = end - position + 1
        return position

    def _other(self, data: bytes, position: int, body: int, stop: int, received: Received) -> int:
        """One packet of any kind; returns where the next begins, or 0 when bytes are missing."""
        header = data[position]
        publish = header & 0xF0 == PUBLISH
        if publish and stop - position > self.packet_bytes_max:
            return self._oversized(data, position, body, stop, received.messages)
        if not publish and header not in self._kinds:
            raise controls.unexpected(header, stop - body)
        if stop - position > self.packet_bytes_max:
            raise ProtocolError(f"A packet of type {header >> 4} has {stop - position} bytes; only PUBLISH is long.")
        if stop > len(data):
            self._need_bytes = stop - position
            return 0
        if publish:
            topic, packet_id, start = self._publish_head(data, header, body, stop)
            _append(received.messages, header, topic, packet_id, data[start:stop])
        else:
            received.controls.append(self._control(header, data[body:stop]))
        return stop

    def _oversized(self, data: bytes, position: int, body: int, stop: int, messages: Messages) -> int:
        """Keep the beginning of a long PUBLISH and arrange for the rest to be skipped."""
        end = len(data)
        kept_stop = body + 2
        if kept_stop <= end:
            head_stop = body + 2 + (data[body] << 8 | data[body + 1]) + 2 + 4  # topic, packet id, length of properties
            kept_stop = min(max(head_stop, position + self.packet_bytes_max) + self.keep_bytes, stop)
        if kept_stop > end:
            self._need_bytes = kept_stop - position
            return 0
        header = data[position]
        topic, packet_id, start = self._publish_head(data, header, body, stop)
        beginning = data[start : min(start + self.keep_bytes, kept_stop)]
        self._skipped = _Skipped(header, topic, packet_id, beginning, stop - start)
        self._skip_bytes = stop - position
        rest = self._skip(self._skipped, data[position:], messages)
        return end - len(rest)

    def _skip(self, skipped: _Skipped, data: bytes, messages: Messages) -> bytes:
        """Drop bytes of a long PUBLISH; returns those behind it, and reports it when it has ended."""
        dropped = min(self._skip_bytes, len(data))
        self._skip_bytes -= dropped
        if not self._skip_bytes:
            self._skipped = None
            messages.oversized[len(messages)] = skipped.payload_bytes
            _append(messages, skipped.header, skipped.topic, skipped.packet_id, skipped.beginning)
        return data[dropped:]

    def _publish_head(self, data: bytes, header: int, body: int, stop: int) -> tuple[str, int, int]:
        """Topic, packet id and where the payload starts (3.3.2). The caller has the bytes of all but the properties."""
        qos = header & QOS_BITS
        if qos not in (0, QOS_1):
            raise ProtocolError(
                "A PUBLISH with QoS 2 or 3 arrived, though we subscribe with QoS 1 (MQTT 3.1.1, 3.3.1.2). "
                "If another program subscribed under this client id, give each its own."
            )
        topic_stop = body + 2
        if topic_stop <= stop:
            topic_stop += data[body] << 8 | data[body + 1]
        start = topic_stop + 2 if qos else topic_stop
        if start > stop or stop - body < 2:
            raise ProtocolError(_CUT_PUBLISH)
        topic = self._topics[data[body + 2 : topic_stop]]
        packet_id = check_packet_id(data[topic_stop] << 8 | data[topic_stop + 1]) if qos else 0
        return topic, packet_id, _behind_properties(data, start, stop) if self._v5 else start


def _behind_properties(data: bytes, start: int, stop: int) -> int:
    """Where the payload of a PUBLISH of MQTT 5 starts; the length of its properties is at `start`."""
    length, begin = decode_length(data, start)
    if not begin or begin + length > stop:
        raise ProtocolError(_CUT_PUBLISH)
    return begin + length


_CUT_PUBLISH = "A PUBLISH ends within its topic, packet id or properties (MQTT 3.1.1, 3.3.2)."


def _append(messages: Messages, header: int, topic: str, packet_id: int, payload: bytes) -> None:
    index = len(messages)
    if header & DUP and packet_id:
        messages.redelivered.add(index)
    if header & RETAIN:
        messages.retained.add(index)
    messages.topics.append(topic)
    messages.payloads.append(payload)
    messages.packet_ids.append(packet_id)

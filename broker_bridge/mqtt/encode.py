"""The encoding half of MQTT 3.1.1 and 5, client's side: packets to bytes. Pure: no clock, no I/O.

PUBACK, PINGREQ and DISCONNECT are the same bytes in both: MQTT 5 lets a reason of 0 and no properties be left out.
Every function raises ProtocolError for what the standard does not allow: topics with wildcards, null
characters, strings over 65,535 bytes, packets over 256 MB.
"""

import sys
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from broker_bridge.mqtt import properties
from broker_bridge.mqtt.packets import (
    PUBLISH,
    REMAINING_BYTES_MAX,
    ProtocolError,
    Version,
    check_packet_id,
    check_topic,
    encode_length,
)

PINGREQ = b"\xc0\x00"
DISCONNECT = b"\xe0\x00"
RETAINED_IF_NEW = 0x10
"""An option of a subscription in MQTT 5 (3.8.3.1): no retained messages again because of a SUBSCRIBE again."""


class Will(NamedTuple):
    """What the broker publishes when the connection breaks without a DISCONNECT (3.1.2.5)."""

    topic: str
    payload: bytes
    qos: int = 1
    retain: bool = False


def connect(
    client_id: str,
    keepalive_s: int,
    *,
    clean_session: bool,
    username: str | None = None,
    password: str | None = None,
    will: Will | None = None,
    version: Version = "3.1.1",
    numbers: Mapping[int, int] | None = None,
) -> bytes:
    """CONNECT (3.1). `numbers`: its properties in MQTT 5. Raises ProtocolError for what it does not allow."""
    if not client_id and not clean_session:
        raise ProtocolError("A session that is kept needs a client id (MQTT 3.1.1, 3.1.3.1).")
    if password is not None and username is None:
        raise ProtocolError("A password needs a username (MQTT 3.1.1, 3.1.2.9).")
    flags = clean_session << 1
    fields = [_string(client_id)]
    if will is not None:
        check_topic(will.topic)
        flags |= 0x04 | will.qos << 3 | will.retain << 5
        fields += [*_properties(version), _string(will.topic), _binary(will.payload)]
    if username is not None:
        flags |= 0x80
        fields.append(_string(username))
    if password is not None:
        flags |= 0x40
        fields.append(_binary(password.encode()))
    level = b"\x00\x04MQTT" + (b"\x05" if version == "5" else b"\x04")
    return _packet(0x10, level, bytes([flags]), keepalive_s.to_bytes(2, "big"), *_properties(version, numbers), *fields)


def subscribe(packet_id: int, filters: Iterable[tuple[str, int]], version: Version = "3.1.1") -> bytes:
    """SUBSCRIBE to (filter, QoS) pairs (3.8)."""
    options = RETAINED_IF_NEW if version == "5" else 0
    pairs = [part for topic, qos in filters for part in (_string(topic), bytes([options | qos]))]
    return _packet(0x82, packet_id.to_bytes(2, "big"), *_properties(version), *pairs)


def unsubscribe(packet_id: int, filters: Iterable[str], version: Version = "3.1.1") -> bytes:
    """UNSUBSCRIBE (3.10)."""
    return _packet(0xA2, packet_id.to_bytes(2, "big"), *_properties(version), *map(_string, filters))


def publish(
    topic: str,
    payload: bytes,
    *,
    qos: int = 1,
    retain: bool = False,
    dup: bool = False,
    packet_id: int = 0,
    version: Version = "3.1.1",
) -> bytes:
    """PUBLISH with QoS 0 or 1 (3.3); QoS 1 takes a packet id of 1 to 65535."""
    check_topic(topic)
    header = PUBLISH | dup << 3 | qos << 1 | retain
    if qos:
        number = check_packet_id(packet_id).to_bytes(2, "big")
        return _packet(header, _string(topic), number, *_properties(version), payload)
    return _packet(header, _string(topic), *_properties(version), payload)


def pubacks(packet_ids: Sequence[int]) -> bytes:
    """One PUBACK (3.4) for each id, in their order."""
    ids = array("H", packet_ids)
    if sys.byteorder == "little":
        ids.byteswap()
    digits = ids.tobytes()
    packets = bytearray(b"\x40\x02\0\0") * len(ids)
    packets[2::4], packets[3::4] = digits[::2], digits[1::2]
    return bytes(packets)


def _packet(header: int, *fields: bytes) -> bytes:
    length = sum(map(len, fields))
    if length > REMAINING_BYTES_MAX:
        raise ProtocolError(f"A packet of {length} bytes is longer than MQTT allows ({REMAINING_BYTES_MAX}).")
    return b"".join((bytes([header]), encode_length(length), *fields))


def _properties(version: Version, numbers: Mapping[int, int] | None = None) -> list[bytes]:
    """The field that only MQTT 5 has."""
    return [properties.encode(numbers or {})] if version == "5" else []


def _string(text: str) -> bytes:
    """A UTF-8 string with its length (1.5.3)."""
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise ProtocolError(f"{text[:80]!r} cannot be written as UTF-8 (MQTT 3.1.1, 1.5.3).") from error
    if "\0" in text:
        raise ProtocolError(f"{text[:80]!r} contains a null character (MQTT 3.1.1, 1.5.3).")
    return _binary(raw)


def _binary(raw: bytes) -> bytes:
    if len(raw) > 0xFFFF:
        raise ProtocolError(f"A topic, name or password has {len(raw)} bytes; MQTT allows 65535.")
    return len(raw).to_bytes(2, "big") + raw

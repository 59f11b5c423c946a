"""The properties of MQTT 5 packets (2.2.2): from bytes and to bytes. Pure.

A packet's properties are read into {identifier: number or bytes}. What may come several times and says nothing
to us, user properties and subscription identifiers, is checked and left out.
"""

from collections.abc import Mapping

from broker_bridge.mqtt.packets import ProtocolError, decode_length, encode_length

SUBSCRIPTION_IDENTIFIER, USER_PROPERTY = 0x0B, 0x26
SESSION_EXPIRY_S, SERVER_KEEP_ALIVE_S = 0x11, 0x13
SERVER_REFERENCE, REASON_STRING = 0x1C, 0x1F
RECEIVE_MAX, TOPIC_ALIAS_MAX, TOPIC_ALIAS, PACKET_BYTES_MAX = 0x21, 0x22, 0x23, 0x27

_NUMBERS = {
    **dict.fromkeys((0x01, 0x17, 0x19, 0x24, 0x25, 0x28, 0x29, 0x2A), 1),
    **dict.fromkeys((SERVER_KEEP_ALIVE_S, RECEIVE_MAX, TOPIC_ALIAS_MAX, TOPIC_ALIAS), 2),
    **dict.fromkeys((0x02, SESSION_EXPIRY_S, 0x18, PACKET_BYTES_MAX), 4),
}
"""Identifier -> length of its big-endian number."""
_STRINGS = {0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, SERVER_REFERENCE, REASON_STRING}
_CUT = "A packet ends within its properties (MQTT 5, 2.2.2)."

Properties = Mapping[int, int | bytes]


def number(properties: Properties, identifier: int, default: int) -> int:
    """A numeric property, or the default when it is not there."""
    value = properties.get(identifier, default)
    assert isinstance(value, int), "its identifier says so"
    return value


def text(properties: Properties, identifier: int) -> str:
    """A text for people; empty when it is not there."""
    value = properties.get(identifier, b"")
    assert isinstance(value, bytes), "its identifier says so"
    return value.decode(errors="replace")


def decode(data: bytes, start: int, stop: int) -> tuple[Properties, int]:
    """The properties whose length is at `start` and the position behind them, at most `stop`. Raises ProtocolError."""
    length, begin = decode_length(data, start)
    end = begin + length
    if not begin or end > stop:
        raise ProtocolError(_CUT)
    return parse(data[begin:end]), end


def parse(area: bytes) -> Properties:
    """The properties of an area that holds nothing else. Raises ProtocolError."""
    found: dict[int, int | bytes] = {}
    position = 0
    while position < len(area):
        identifier = area[position]
        value, position = _value(area, identifier, position + 1)
        if position > len(area):
            raise ProtocolError(_CUT)
        if identifier in (USER_PROPERTY, SUBSCRIPTION_IDENTIFIER):
            continue
        if identifier in found:
            raise ProtocolError(f"A packet has the property {identifier:#04x} twice (MQTT 5, 2.2.2.2).")
        found[identifier] = value
    return found


def _value(area: bytes, identifier: int, start: int) -> tuple[int | bytes, int]:
    """A property's value and the position behind it, which lies beyond the area when bytes are missing."""
    if size := _NUMBERS.get(identifier):
        return int.from_bytes(area[start : start + size], "big"), start + size
    if identifier in _STRINGS:
        return _string(area, start)
    if identifier == USER_PROPERTY:
        return _string(area, _string(area, start)[1])
    if identifier == SUBSCRIPTION_IDENTIFIER:
        value, stop = decode_length(area, start)
        return value, stop or len(area) + 1
    raise ProtocolError(f"A packet has the unknown property {identifier:#04x} (MQTT 5, 2.2.2.2).")


def _string(area: bytes, start: int) -> tuple[bytes, int]:
    stop = start + 2 + int.from_bytes(area[start : start + 2], "big")
    return area[start + 2 : stop], stop


def encode(numbers: Mapping[int, int]) -> bytes:
    """Numeric properties with their length."""
    fields = [
        bytes([identifier]) + value.to_bytes(_NUMBERS[identifier], "big") for identifier, value in numbers.items()
    ]
    area = b"".join(fields)
    return encode_length(len(area)) + area

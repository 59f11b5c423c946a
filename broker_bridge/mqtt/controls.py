"""What a broker sends beside messages, as small tuples. Pure.

The same packets of MQTT 3.1.1 and 5; what only MQTT 5 says is empty in those of 3.1.1.
"""

from collections.abc import Callable
from types import MappingProxyType
from typing import NamedTuple

from broker_bridge.mqtt import properties
from broker_bridge.mqtt.packets import (
    CONNACK,
    DISCONNECT,
    FAILED,
    PINGRESP,
    PUBACK,
    SUBACK,
    UNSUBACK,
    ProtocolError,
    Version,
)
from broker_bridge.mqtt.properties import REASON_STRING, SERVER_REFERENCE, Properties, text


class Connack(NamedTuple):
    """`code`: 0, a return code of 3.1.1 (3.2.2.3), or a reason code of MQTT 5 (3.2.2.2)."""

    session_present: bool
    code: int
    properties: Properties = MappingProxyType({})


class Suback(NamedTuple):
    packet_id: int
    codes: bytes
    reason: str = ""


class Unsuback(NamedTuple):
    packet_id: int


class Puback(NamedTuple):
    """A PUBACK that says more than its packet id, such as that the message was refused (MQTT 5, 3.4.2.1)."""

    packet_id: int
    code: int
    reason: str = ""


class Disconnect(NamedTuple):
    """The broker ends the connection (MQTT 5, 3.14). `server`: another one to use."""

    code: int
    reason: str = ""
    server: str = ""


class Pingresp(NamedTuple):
    pass


Control = Connack | Suback | Unsuback | Puback | Disconnect | Pingresp


def decode(header: int, body: bytes) -> Control:
    """A packet of MQTT 3.1.1. Raises ProtocolError."""
    match header, len(body):
        case 0x20, 2 if body[0] <= 1:
            return Connack(bool(body[0]), body[1])
        case 0x90, length if length >= 3:
            return Suback(_packet_id(body), body[2:])
        case 0xB0, 2:
            return Unsuback(_packet_id(body))
        case 0xD0, 0:
            return Pingresp()
    raise unexpected(header, len(body))


def decode_v5(header: int, body: bytes) -> Control:  # noqa: PLR0911 - one return per kind reads best
    """A packet of MQTT 5. Raises ProtocolError."""
    match header, len(body):
        case 0x20, 2 if 0 < body[1] < FAILED:  # the refusal of a broker that speaks 3.1.1 only
            return Connack(session_present=False, code=body[1])
        case 0x20, length if length >= 3 and body[0] <= 1:
            return Connack(bool(body[0]), body[1], _last(body, 2))
        case 0x90, length if length >= 4:
            said, start = properties.decode(body, 2, length)
            return Suback(_packet_id(body), body[start:], text(said, REASON_STRING))
        case 0xB0, length if length >= 4:
            return Unsuback(_packet_id(body))
        case 0x40, length if length >= 3:
            return Puback(_packet_id(body), body[2], text(_last(body, 3), REASON_STRING))
        case 0xE0, length:
            said = _last(body, 1)
            return Disconnect(body[0] if length else 0, text(said, REASON_STRING), text(said, SERVER_REFERENCE))
        case 0xD0, 0:
            return Pingresp()
    raise unexpected(header, len(body))


KINDS: dict[Version, tuple[frozenset[int], Callable[[int, bytes], Control]]] = {
    "3.1.1": (frozenset((CONNACK, PUBACK, SUBACK, UNSUBACK, PINGRESP)), decode),
    "5": (frozenset((CONNACK, PUBACK, SUBACK, UNSUBACK, PINGRESP, DISCONNECT)), decode_v5),
}
"""By version: the first bytes of what may come, and what decodes it."""


def unexpected(header: int, length: int) -> ProtocolError:
    return ProtocolError(
        f"A packet of type {header >> 4} with flags {header & 15} and {length} bytes is not one a broker "
        "may send here (MQTT 3.1.1, 2.2). Check that the port speaks MQTT."
    )


def _packet_id(body: bytes) -> int:
    return body[0] << 8 | body[1]


def _last(body: bytes, start: int) -> Properties:
    """The properties that end a packet; they may be left out (MQTT 5, 3.4.2.2.1, 3.14.2.2.1)."""
    if start >= len(body):
        return {}
    said, stop = properties.decode(body, start, len(body))
    if stop < len(body):
        raise ProtocolError("A packet goes on behind its properties (MQTT 5, 2.2.2).")
    return said

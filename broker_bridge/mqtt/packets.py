"""What MQTT's two halves here share: versions, packet types, lengths, and the error. Pure."""

from typing import Literal

from telemetry.errors import FieldlineError
from telemetry.packing import varint

Version = Literal["3.1.1", "5"]

PUBLISH, PUBACK = 0x30, 0x40
CONNACK, SUBACK, UNSUBACK, PINGRESP, DISCONNECT = 0x20, 0x90, 0xB0, 0xD0, 0xE0
DUP, QOS_1, QOS_BITS, RETAIN = 0x08, 0x02, 0x06, 0x01
FAILED = 0x80
"""From here on a return or reason code says that something was refused (3.9.3; MQTT 5, 2.4)."""
REMAINING_BYTES_MAX = 268_435_455


class ProtocolError(FieldlineError):
    """Bytes that MQTT does not allow; the connection they came by must be closed (4.8; MQTT 5, 4.13)."""


def check_topic(topic: str) -> None:
    """Raise ProtocolError unless one can publish to `topic` (1.5.3, 3.3.2.1, 4.7.3)."""
    if not topic or "\0" in topic or "+" in topic or "#" in topic:
        raise ProtocolError(
            f"The topic {topic[:80]!r} cannot be published to: it is empty or has a null character, + or # "
            "(MQTT 3.1.1, 4.7.3)."
        )


def check_packet_id(value: int) -> int:
    if not value:
        raise ProtocolError("A packet that must be acknowledged has packet id 0 (MQTT 3.1.1, 2.3.1).")
    return value


def decode_length(data: bytes, start: int) -> tuple[int, int]:
    """The number at `start` and the position behind it, or (0, 0) when bytes are missing (2.2.3)."""
    length = 0
    for index, byte in enumerate(data[start : start + 4]):
        length |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return length, start + index + 1
    if len(data) - start >= 4:
        raise ProtocolError("A packet's remaining length has more than 4 bytes (MQTT 3.1.1, 2.2.3).")
    return 0, 0


def encode_length(length: int) -> bytes:
    """The number in one to four bytes of seven bits (2.2.3)."""
    return varint(length)

"""CoAP datagrams (RFC 7252 3), written and read: what the drill's devices need. Shares no code with the pipeline."""

import struct
from typing import NamedTuple

CON, NON, ACK, RST = range(4)
GET, POST = 0x01, 0x02
CHANGED, CONTENT, CONTINUE = 0x44, 0x45, 0x5F
UNAUTHORIZED, INCOMPLETE, UNAVAILABLE = 0x81, 0x88, 0xA3
OBSERVE, URI_PATH, CONTENT_FORMAT, MAX_AGE, BLOCK1 = 6, 11, 12, 14, 27
Options = tuple[tuple[int, bytes], ...]


class Datagram(NamedTuple):
    """One message."""

    kind: int
    code: int
    mid: int
    token: bytes = b""
    options: Options = ()
    payload: bytes = b""

    def encode(self) -> bytes:
        """As bytes; options must be in the order of their numbers and shorter than 269 bytes."""
        data = struct.pack("!BBH", 0x40 | self.kind << 4 | len(self.token), self.code, self.mid) + self.token
        before = 0
        for number, value in self.options:
            (delta, more), (length, longer) = _nibble(number - before), _nibble(len(value))
            data += bytes([delta << 4 | length]) + more + longer + value
            before = number
        return data + (b"\xff" + self.payload if self.payload else b"")


def decode(data: bytes) -> Datagram:
    """Raises ValueError or IndexError for what is no message."""
    if len(data) < 4:
        raise ValueError("too short for CoAP")
    first, code, mid = struct.unpack("!BBH", data[:4])
    at, number = 4 + (first & 15), 0
    token, options = data[4:at], []
    while at < len(data) and data[at] != 0xFF:
        delta, length = data[at] >> 4, data[at] & 15
        at += 1
        if delta == 13:
            delta, at = 13 + data[at], at + 1
        if length == 13:
            length, at = 13 + data[at], at + 1
        number += delta
        options.append((number, data[at : at + length]))
        at += length
    return Datagram(first >> 4 & 3, code, mid, token, tuple(options), data[at + 1 :])


def number(value: int) -> bytes:
    """An option's unsigned integer (3.2)."""
    return value.to_bytes((value.bit_length() + 7) // 8)


def _nibble(value: int) -> tuple[int, bytes]:
    return (value, b"") if value < 13 else (13, bytes([value - 13]))

"""The wire format of Protocol Buffers, as much of it as Sparkplug needs.

A message is a row of fields. A field begins with its tag, a varint: the field's number, and in the lowest three bits
what follows:
  VARINT   seven bits per byte, the lowest first, the top bit set on all bytes but the last; at most ten bytes
  FIXED64  eight bytes
  BYTES    a varint, and so many bytes: a text, bytes, or a message
  FIXED32  four bytes
What a field means is for the caller to know: values here are integers (VARINT) or bytes (all others), and a tag with
another type than the caller expects is another tag. Groups are not read: Sparkplug has none.

Every byte is looked at once, and a message inside another one only when the caller asks. So time and memory are linear
in the length, and there is no depth but the caller's.
"""

from typing import Any

from telemetry.packing import varint

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
VARINT_MAX = 2**64 - 1


class WireError(ValueError):
    """These bytes are no message."""


def fields(data: bytes) -> list[tuple[int, Any]]:  # noqa: C901 - the hot path, in one piece
    """The fields of a message, (tag, value), in their order. Raises WireError."""
    found: list[tuple[int, Any]] = []
    at, end = 0, len(data)
    try:
        while at < end:
            tag = data[at]
            at += 1
            if tag > 0x7F:
                tag, at = _varint(data, at - 1)
            kind = tag & 7
            if tag < 8:
                raise WireError("a field has the number 0")
            if kind in (VARINT, BYTES):
                value = data[at]
                at += 1
                if value > 0x7F:
                    value, at = _varint(data, at - 1)
                if kind == VARINT:
                    found.append((tag, value))
                    continue
                size = value
            elif kind == FIXED32:
                size = 4
            elif kind == FIXED64:
                size = 8
            else:
                raise WireError(f"a field has the wire type {kind}")
            start, at = at, at + size
            found.append((tag, data[start:at]))
    except IndexError:
        at = end + 1
    if at != end:
        raise WireError("it is cut off")
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """The varint that begins at `at`, and where it ends. Raises WireError, IndexError."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte <= 0x7F:
            return value & VARINT_MAX, at
        shift += 7
        if shift > 63:
            raise WireError("a varint has more than ten bytes")


def written(number: int, value: int | bytes) -> bytes:
    """A field to write: an integer as VARINT, bytes as BYTES."""
    if isinstance(value, int):
        return varint(number << 3 | VARINT) + varint(value)
    return varint(number << 3 | BYTES) + varint(len(value)) + value

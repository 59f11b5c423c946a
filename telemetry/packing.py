"""How numbers and texts lie in a batch: the pieces that `telemetry.wire` puts together. All are little-endian.

  varint   an unsigned integer, seven bits per byte, the lowest first, the top bit set on all bytes but the last
           (LEB128); a signed one is zigzagged first: 0, -1, 1, -2 … become 0, 1, 2, 3 …
  column   n integers of 64 bits: a byte that says in which form, and what follows from that. Its lower four bits:
             0..8      planes: the integers are zigzagged, then come all the lowest bytes, all the second lowest … up to
                       so many; the bytes above are zero
             SAME      all are the same: a signed varint
             PLAIN     eight bytes each, as they are
           and its upper ones:
             DELTA     the first as a signed varint; then, as planes or SAME, the n - 1 steps from each to the next,
                       modulo 2^64
             GROUPED   in the order of the batch's series, not in the order of the records
             RELATIVE  received_at less measured_at
           Of n = 0 integers there is nothing at all.
  strings  a column of n lengths in bytes, then the bytes.

Which form a column takes is found out by trying: zstd compresses each at a quick level, and the shortest wins.
"""

from collections.abc import Iterable, Sequence

from backports import zstd

from telemetry import lanes

FORM = 0x0F
PLANES_MAX, PLAIN, SAME = 8, 0x0E, 0x0F
DELTA, GROUPED, RELATIVE = 0x10, 0x20, 0x40
TRIED_BYTES_MIN = 256
"""Shorter pieces are compared as they are."""
TRIED_LEVEL = 1


def varint(value: int) -> bytes:
    """A non-negative integer."""
    made = bytearray()
    while value > 0x7F:
        made.append(value & 0x7F | 0x80)
        value >>= 7
    made.append(value)
    return bytes(made)


def signed(value: int) -> bytes:
    """Any integer as a varint."""
    return varint(value << 1 if value >= 0 else ~(value << 1))


def column(x: int, n: int, form: int = 0) -> bytes:
    """The n lanes of x; form: DELTA or PLAIN, and how the lanes are: GROUPED, RELATIVE."""
    if n == 0:
        return b""
    head = b""
    if lanes.are_same(x, n):
        form &= ~(DELTA | FORM)
    elif form & FORM == PLAIN:
        return bytes([form]) + lanes.dump(x, n)
    elif form & DELTA:
        head, x, n = signed(lanes.first(x)), lanes.steps(x, n), n - 1
    if lanes.are_same(x, n):
        return bytes([form | SAME]) + head + signed(lanes.first(x))
    planes = lanes.planes(lanes.zigzag(x, n), n)
    return bytes([form | len(planes)]) + head + b"".join(planes)


def strings(texts: Sequence[bytes]) -> bytes:
    """Texts or raw bytes."""
    if not texts:
        return b""
    lengths = lanes.of(map(len, texts))
    return shortest(column(lengths, len(texts), form) for form in (0, DELTA)) + b"".join(texts)


def shortest(pieces: Iterable[bytes]) -> bytes:
    """The one that will take the least when it is compressed; the first of equals."""
    return min(pieces, key=cost)


def cost(piece: bytes) -> int:
    """About how many bytes a piece takes in the end."""
    return len(piece) if len(piece) < TRIED_BYTES_MIN else len(zstd.compress(piece, level=TRIED_LEVEL))

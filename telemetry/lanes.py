"""Vectors of 64-bit integers for a gateway without NumPy: all lanes of a vector in one Python integer.

Python adds, subtracts and shifts large integers at memory speed, so an operation on a vector costs a few nanoseconds
per lane where a loop takes fifty. Lane 0 is the lowest; a vector is what its little-endian bytes are. Arithmetic is
modulo 2^64 in each lane, and no carry leaves a lane (as in H. S. Warren, Hacker's Delight, 2-18).

n is the number of lanes, which a vector does not know itself: its upper lanes may be zero.
"""

from array import array
from collections.abc import Iterable
from functools import lru_cache

LANE_BITS = 64
LANE_BYTES = 8
_TOP = b"\0\0\0\0\0\0\0\x80"
_REST = b"\xff\xff\xff\xff\xff\xff\xff\x7f"


def load(data: "bytes | bytearray | array[int] | array[float]") -> int:
    """A vector from eight bytes per lane."""
    return int.from_bytes(data, "little")


def of(integers: Iterable[int]) -> int:
    """A vector of integers that fit 64 bits with a sign."""
    return load(array("q", list(integers)))  # an array takes a list four times as fast as an iterator


def widened(data: bytes) -> int:
    """A vector of bytes, each in a lane of its own."""
    wide = bytearray(LANE_BYTES * len(data))
    wide[::LANE_BYTES] = data
    return load(wide)


@lru_cache(maxsize=4)
def fill(lane: bytes, n: int) -> int:
    """The same eight bytes in every lane."""
    return load(lane * n)


def dump(x: int, n: int) -> bytes:
    """The vector's bytes."""
    return x.to_bytes(LANE_BYTES * n, "little")


def first(x: int) -> int:
    """Lane 0, with its sign."""
    return ((x & (2**64 - 1)) ^ 2**63) - 2**63


def are_same(x: int, n: int) -> bool:
    """Whether all lanes are equal."""
    return x >> LANE_BITS == x & ((1 << LANE_BITS * (n - 1)) - 1)


def minus(x: int, y: int, n: int) -> int:
    """The difference x - y. Lanes of y beyond n do not count."""
    top, rest = fill(_TOP, n), fill(_REST, n)
    return ((x | top) - (y & rest)) ^ ((x ^ y) & top) ^ top


def steps(x: int, n: int) -> int:
    """From each lane to the next: n - 1 lanes."""
    return minus(x >> LANE_BITS, x, n - 1)


def zigzag(x: int, n: int) -> int:
    """Signed lanes as unsigned ones that are small when the signed ones are: 0, -1, 1, -2 … become 0, 1, 2, 3 …"""
    signs = (x & fill(_TOP, n)) >> (LANE_BITS - 1)
    return ((x & fill(_REST, n)) << 1) ^ ((signs << LANE_BITS) - signs)


def planes(x: int, n: int) -> list[bytes]:
    """The lowest bytes of all lanes, then the second lowest … up to the last that are not all zero."""
    data = dump(x, n)
    width = LANE_BYTES
    while width and data[width - 1 :: LANE_BYTES].count(0) == n:
        width -= 1
    return [data[place::LANE_BYTES] for place in range(width)]

"""Reads what `telemetry.packing` has packed, with NumPy, and believes none of it.

Memory is taken only for bytes that are there, or for as many integers as the caller has a limit for. Sums wrap at 64
bits, as the differences did when they were made: there is no overflow, and nothing comes of it that a sender could not
have sent as it is. What ends too early or cannot be is a WireError.
"""

import numpy as np

from ingest.batch import Ints
from telemetry.errors import WireError
from telemetry.packing import DELTA, FORM, GROUPED, PLAIN, PLANES_MAX, RELATIVE, SAME

_ONE = np.uint64(1)


class Reader:
    """Takes a batch's bytes from front to back. Raises WireError where they end, or cannot be."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        begin, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise WireError(f"the batch ends too early: of {size} bytes {len(self._data) - begin} are there")
        return self._data[begin : self._at]

    def rest(self) -> bytes:
        return self.take(self.left)

    def byte(self) -> int:
        return self.take(1)[0]

    def varint(self) -> int:
        value = 0
        for shift in range(0, 64, 7):
            byte = self.byte()
            value |= (byte & 0x7F) << shift
            if byte <= 0x7F and value < 2**64:
                return value
        raise WireError("the batch holds a number of more than 64 bits")

    def signed(self) -> int:
        value = self.varint()
        return value >> 1 ^ -(value & 1)

    def count(self, most: int, what: str) -> int:
        """How many of something follow."""
        value = self.varint()
        if value > most:
            raise WireError(f"the batch counts {value} {what}, at most {most} are possible")
        return value

    def column(self, n: int, allowed: int = 0) -> tuple[int, Ints]:
        """(whether it is GROUPED and RELATIVE, as far as that is allowed; n integers)."""
        if n == 0:
            return 0, np.empty(0, np.int64)
        form = self.byte()
        kind, how = form & FORM, form & (GROUPED | RELATIVE)
        if form & ~(FORM | DELTA | allowed) or (form & DELTA and kind == PLAIN):
            raise WireError(f"the batch has a column of form {form:#x}, which cannot be")
        if not form & DELTA:
            return how, self._integers(kind, n)
        made = np.empty(n, np.int64)
        made[0] = self.signed()
        made[1:] = self._integers(kind, n - 1)
        return how, np.cumsum(made, out=made)

    def _integers(self, kind: int, n: int) -> Ints:
        if kind == SAME:
            return np.full(n, self.signed(), np.int64)
        if kind == PLAIN:
            return np.frombuffer(self.take(8 * n), "<i8")
        if kind > PLANES_MAX:
            raise WireError(f"the batch has a column of {kind} planes, {PLANES_MAX} at most are possible")
        lanes = np.zeros((n, 8), np.uint8)
        for place in range(kind):
            lanes[:, place] = np.frombuffer(self.take(n), np.uint8)
        joined = lanes.view("<u8").ravel()
        return (joined >> _ONE).view(np.int64) ^ -(joined & _ONE).view(np.int64)

    def positions(self, n: int, end: int, what: str) -> Ints:
        """Ascending integers below `end`."""
        _, found = self.column(n)
        if n and (found.min() < 0 or found.max() >= end or (np.diff(found) <= 0).any()):
            raise WireError(f"the batch's {what} are not ascending below {end}")
        return found

    def strings(self, n: int) -> list[bytes]:
        if n == 0:
            return []
        _, lengths = self.column(n)
        if lengths.min() < 0 or lengths.max() > self.left or lengths.sum() > self.left:
            raise WireError("the batch's texts are longer than the batch")
        ends = np.cumsum(lengths).tolist()
        data = self.take(ends[-1])
        return [data[end - size : end] for end, size in zip(ends, lengths.tolist(), strict=True)]

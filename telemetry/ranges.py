"""Sets of sequence numbers as sorted, disjoint, closed ranges: what is committed, what is new.

A ledger entry is such a set: one range from 1 to the mark, and, when batches came out of order, some
ranges ahead of it. Operations cost O(log n) to O(n) in the number of ranges, never in the number of seqs.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator


class SeqRanges:
    """A set of integers >= 1, kept as sorted disjoint closed ranges that never touch each other."""

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for first, last in ranges:
            self.add(first, last)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return zip(self._firsts, self._lasts, strict=True)

    def __len__(self) -> int:
        """The number of ranges (not of seqs)."""
        return len(self._firsts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SeqRanges) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"SeqRanges({list(self)})"

    @property
    def mark(self) -> int:
        """The largest N such that 1..N are all in the set; 0 when 1 is not."""
        return self._lasts[0] if self._firsts and self._firsts[0] == 1 else 0

    @property
    def last(self) -> int:
        """The largest seq in the set; 0 when it is empty."""
        return self._lasts[-1] if self._lasts else 0

    @property
    def ahead(self) -> list[tuple[int, int]]:
        """The ranges beyond the mark."""
        return list(self)[1 if self.mark else 0 :]

    def count(self) -> int:
        """The number of seqs in the set."""
        return sum(self._lasts) - sum(self._firsts) + len(self._firsts)

    def copy(self) -> "SeqRanges":
        twin = SeqRanges()
        twin._firsts, twin._lasts = self._firsts.copy(), self._lasts.copy()
        return twin

    def add(self, first: int, last: int) -> None:
        """Add first..last, both included."""
        assert 1 <= first <= last, (first, last)
        lo = bisect_left(self._lasts, first - 1)  # the first range that touches or follows
        hi = bisect_right(self._firsts, last + 1)  # one past the last range that touches
        if lo < hi:
            first, last = min(first, self._firsts[lo]), max(last, self._lasts[hi - 1])
        self._firsts[lo:hi] = [first]
        self._lasts[lo:hi] = [last]

    def missing(self, first: int, last: int) -> list[tuple[int, int]]:
        """The parts of first..last that are not in the set, in order: what is new."""
        gaps = []
        at = first
        for index in range(bisect_left(self._lasts, first), len(self._firsts)):
            if self._firsts[index] > last:
                break
            if at < self._firsts[index]:
                gaps.append((at, self._firsts[index] - 1))
            at = self._lasts[index] + 1
        if at <= last:
            gaps.append((at, last))
        return gaps

    def covers(self, first: int, last: int) -> bool:
        """Whether all of first..last is in the set."""
        index = bisect_left(self._lasts, last)
        return index < len(self._firsts) and self._firsts[index] <= first

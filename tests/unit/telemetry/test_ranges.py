"""SeqRanges against a plain set of integers."""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from telemetry.ranges import SeqRanges

SEQ_MAX = 40
seqs = st.integers(1, SEQ_MAX)
spans = st.tuples(seqs, seqs).map(lambda ends: (min(ends), max(ends)))


def members(ranges: SeqRanges) -> set[int]:
    return {seq for first, last in ranges for seq in range(first, last + 1)}


class AgainstASet(RuleBasedStateMachine):
    """The same operations on both."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges = SeqRanges()
        self.model: set[int] = set()

    @rule(span=spans)
    def add(self, span: tuple[int, int]) -> None:
        self.ranges.add(*span)
        self.model.update(range(span[0], span[1] + 1))

    @rule(span=spans)
    def ask(self, span: tuple[int, int]) -> None:
        wanted = set(range(span[0], span[1] + 1))
        assert self.ranges.covers(*span) == (wanted <= self.model)
        missing = self.ranges.missing(*span)
        assert members(SeqRanges(missing)) == wanted - self.model
        assert all(last + 1 < first for (_, last), (first, _) in pairwise(missing)), "in order, and as few as can be"

    @rule(span=spans)
    def a_copy_is_its_own(self, span: tuple[int, int]) -> None:
        copy = self.ranges.copy()
        assert copy == self.ranges
        copy.add(*span)
        assert members(copy) == self.model | set(range(span[0], span[1] + 1))

    @invariant()
    def they_agree(self) -> None:
        assert members(self.ranges) == self.model
        assert self.ranges.count() == len(self.model)
        mark = next(seq for seq in range(SEQ_MAX + 1) if seq + 1 not in self.model)
        assert self.ranges.mark == mark
        assert self.ranges.last == max(self.model, default=0)
        assert members(SeqRanges(self.ranges.ahead)) == {seq for seq in self.model if seq > mark}

    @invariant()
    def the_ranges_are_sorted_and_never_touch(self) -> None:
        assert len(list(self.ranges)) == len(self.ranges)
        assert all(first <= last for first, last in self.ranges)
        assert all(last + 1 < first for (_, last), (first, _) in pairwise(self.ranges))


TestAgainstASet = AgainstASet.TestCase
TestAgainstASet.settings = settings(deadline=None, max_examples=60, stateful_step_count=25)


@given(st.permutations([(1, 3), (4, 4), (9, 12), (11, 20), (30, 30)]))
def test_the_order_of_adding_does_not_matter(order: list[tuple[int, int]]) -> None:
    assert list(SeqRanges(order)) == [(1, 4), (9, 20), (30, 30)]
    assert repr(SeqRanges(order)) == "SeqRanges([(1, 4), (9, 20), (30, 30)])"


def test_size_is_in_ranges_and_not_in_seqs() -> None:
    ranges = SeqRanges([(1, 10**15)])
    assert (len(ranges), ranges.count(), ranges.mark, ranges.ahead) == (1, 10**15, 10**15, [])
    assert SeqRanges() != SeqRanges([(1, 1)])
    assert SeqRanges() != []

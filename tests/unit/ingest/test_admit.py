"""Admission against plain sets: every (gateway, epoch, seq) is admitted once, and receipts claim no more than is there.

The model plays the worker and its gateways: batches with any ranges, in any order, from several spools; commits in
between that may take a while, and crashes after which a new worker knows only the ledger and what is stored.
"""

from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker_bridge.contract import AHEAD_RANGES_MAX
from ingest.admit import Admission, Key, Slice
from telemetry.ranges import SeqRanges
from tests.decoded import plain_batch

SEQ_MAX = 60
KEYS: list[Key] = [(gateway, epoch) for gateway in ("g1", "g2", "g3") for epoch in ("e1", "e2")]
keys = st.sampled_from(KEYS)
spans = st.tuples(st.integers(1, SEQ_MAX), st.integers(1, 25))


def seqs(parts: list[Slice]) -> list[tuple[Key, int]]:
    return [
        ((part.batch.header.gateway, part.batch.header.epoch), seq)
        for part in parts
        for seq in range(part.first_seq, part.last_seq + 1)
    ]


def members(ranges: SeqRanges) -> set[int]:
    return {seq for first, last in ranges for seq in range(first, last + 1)}


class Ingest(RuleBasedStateMachine):
    """`stored` is the tables, `ledger` the table of that name; a snapshot is what a query of it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.stored: list[tuple[Key, int]] = []
        self.ledger: dict[Key, set[int]] = {}
        self.restart()

    def restart(self) -> None:
        self.admission = Admission()
        ranges = {key: SeqRanges((seq, seq) for seq in sorted(held)) for key, held in self.ledger.items()}
        self.admission.load(ranges)
        self.pending: list[Slice] = []
        self.writing: list[Slice] = []
        self.marks: dict[Key, SeqRanges] = {}

    @rule(key=keys, span=spans, loss=st.booleans())
    def a_batch_comes(self, key: Key, span: tuple[int, int], loss: bool) -> None:
        batch = plain_batch(*key, *span, loss=loss)
        claimed = {*self.stored, *seqs(self.writing), *seqs(self.pending)}
        parts = self.admission.admit(batch)
        asked = {(key, seq) for seq in range(batch.header.first_seq, batch.header.last_seq + 1)}
        assert sorted(seqs(parts)) == sorted(asked - claimed), "just what is new, once"
        assert all(0 <= part.start < part.stop <= batch.header.count for part in parts)
        assert all(left.stop < right.start for left, right in pairwise(parts)), "in order, and as few as can be"
        assert sum(part.rows for part in parts) == (0 if loss else len(asked - claimed))
        self.pending += parts

    @precondition(lambda self: self.pending and not self.writing)
    @rule()
    def a_commit_begins(self) -> None:
        self.writing, self.pending = self.pending, []
        self.marks = self.admission.after([part.range for part in self.writing])
        touched = {key for key, _ in seqs(self.writing)}
        assert set(self.marks) == touched
        for key in touched:
            assert members(self.marks[key]) == self.ledger.get(key, set()) | {
                s for k, s in seqs(self.writing) if k == key
            }

    @precondition(lambda self: self.writing)
    @rule()
    def a_commit_ends(self) -> None:
        self.stored += seqs(self.writing)
        self.ledger |= {key: members(ranges) for key, ranges in self.marks.items()}
        self.admission.commit(self.marks)
        self.writing = []

    @rule(written=st.floats(0, 1))
    def the_worker_is_killed(self, written: float) -> None:
        """Some of its commit's slices are stored; recovery adds them to the ledger."""
        found = self.writing[: int(written * (len(self.writing) + 1))]
        self.stored += seqs(found)
        for key, seq in seqs(found):
            self.ledger.setdefault(key, set()).add(seq)
        self.restart()

    @invariant()
    def nothing_is_stored_twice(self) -> None:
        assert len(self.stored) == len(set(self.stored))

    @invariant()
    def receipts_say_what_the_ledger_says_and_no_more_than_is_stored(self) -> None:
        for key in KEYS:
            ranges = self.admission.receipt_ranges(key)
            held = members(ranges)
            assert held == self.ledger.get(key, set())
            assert {(key, seq) for seq in held} <= set(self.stored)
            mark = next(seq for seq in range(len(held) + 1) if seq + 1 not in held)
            assert ranges.mark == mark
            assert members(SeqRanges(ranges.ahead)) == {seq for seq in held if seq > mark}


TestIngest = Ingest.TestCase
TestIngest.settings = settings(deadline=None, max_examples=80, stateful_step_count=40)

KEY = KEYS[0]


def spread(ranges: int) -> Admission:
    """An admission with this many ranges ahead of mark 1: seqs 1, 3, 5 …"""
    admission = Admission()
    for index in range(ranges + 1):
        assert admission.admit(plain_batch(*KEY, 1 + 2 * index, 1))
    return admission


def test_a_batch_that_would_leave_too_many_ranges_is_not_admitted_and_can_come_again() -> None:
    admission = spread(AHEAD_RANGES_MAX)
    beyond = plain_batch(*KEY, 1000, 5)
    assert admission.admit(beyond) == []
    assert admission.admit(plain_batch(*KEY, 2 * AHEAD_RANGES_MAX + 2, 5)), "one that lengthens a range is"
    assert admission.admit(plain_batch(*KEY, 2, 1)), "one that closes a gap is"
    assert admission.admit(plain_batch(*KEYS[1], 1000, 5)), "and another spool's is"
    assert [(part.first_seq, part.last_seq) for part in admission.admit(beyond)] == [(1000, 1004)]


def test_a_refusal_claims_nothing() -> None:
    admission = spread(AHEAD_RANGES_MAX)
    before = admission.claimed[KEY].copy()
    assert admission.admit(plain_batch(*KEY, 500, 100)) == []
    assert admission.claimed[KEY] == before


def test_a_spool_with_more_ranges_than_that_after_a_crash_is_closed_step_by_step() -> None:
    admission = Admission()
    many = SeqRanges((seq, seq) for seq in range(1, 1001, 2))
    admission.load({KEY: many})
    assert admission.admit(plain_batch(*KEY, 2000, 1)) == []
    for first in range(1, 1001, 10):
        assert len(admission.admit(plain_batch(*KEY, first, 10))) == 5
    assert admission.claimed[KEY] == SeqRanges([(1, 1000)])


@given(st.lists(st.tuples(keys, spans), max_size=12))
def test_the_ledgers_ranges_are_not_shared_with_what_is_claimed(batches: list[tuple[Key, tuple[int, int]]]) -> None:
    """Or a receipt would promise what is still in memory."""
    admission = Admission()
    admission.load({key: SeqRanges([(1, 3)]) for key in KEYS})
    for key, span in batches:
        admission.admit(plain_batch(*key, *span))
    admission.after([part.range for key, span in batches for part in admission.admit(plain_batch(*key, *span))])
    assert all(admission.receipt_ranges(key) == SeqRanges([(1, 3)]) for key in KEYS)

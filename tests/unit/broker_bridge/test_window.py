"""The window: bounded, in order; whatever receipts are lost, late or of another worker, all is covered in the end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker_bridge.window import Window
from telemetry.ranges import SeqRanges

RESEND_S = 10.0


class Trunk(RuleBasedStateMachine):
    """An uplink without I/O on a spool that grows, and a cloud that commits, forgets and repeats itself."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(3, RESEND_S)
        self.now_s = 0.0
        self.last_seq = 0
        self.on_the_way: list[tuple[int, int]] = []
        self.committed = SeqRanges()
        self.receipts = [SeqRanges()]

    @rule(records=st.integers(1, 12))
    def the_spool_grows(self, records: int) -> None:
        self.last_seq += records

    @precondition(lambda self: self.window.has_room)
    @rule(records_max=st.integers(1, 8))
    def send(self, records_max: int) -> None:
        after, wanted = self.window.skip_confirmed()
        last = min(after + records_max, self.last_seq, wanted or self.last_seq)
        if last > after:
            assert self.window.confirmed.missing(after + 1, last) == [(after + 1, last)], "only what is not confirmed"
            assert not self.window.confirmed.missing(1, after) or self.is_outstanding(after)
            self.window.sent(after + 1, last, self.now_s)
            self.on_the_way.append((after + 1, last))

    def is_outstanding(self, seq: int) -> bool:
        sent = SeqRanges([(first, last) for first, last, _ in self.window.outstanding])
        return all(sent.covers(*gap) for gap in self.window.confirmed.missing(1, seq))

    @precondition(lambda self: self.on_the_way)
    @rule(data=st.data(), kept=st.booleans())
    def the_cloud_commits_or_loses_a_batch(self, data: st.DataObject, kept: bool) -> None:
        batch = self.on_the_way.pop(data.draw(st.integers(0, len(self.on_the_way) - 1)))
        if kept:
            self.committed.add(*batch)
            self.receipts.append(self.committed.copy())

    @rule(data=st.data())
    def a_receipt_comes_late_or_never_or_twice(self, data: st.DataObject) -> None:
        self.window.confirm(data.draw(st.sampled_from(self.receipts)))

    @rule(passed_s=st.floats(0, RESEND_S * 1.5))
    def time_passes(self, passed_s: float) -> None:
        self.now_s += passed_s
        due_s = self.window.overdue_in_s(self.now_s)
        oldest = min((sent_at for *_, sent_at in self.window.outstanding), default=None)
        assert due_s == (None if oldest is None else oldest + RESEND_S - self.now_s)
        if due_s is not None and due_s <= 0:
            self.another_worker_answers()

    @rule()
    def another_worker_answers(self) -> None:
        self.on_the_way.clear()  # what the former held in memory is gone
        self.window.rewind(self.committed)
        assert not self.window.outstanding
        assert self.window.overdue_in_s(self.now_s) is None

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.window.outstanding) <= self.window.batches_max
        assert self.window.has_room == (len(self.window.outstanding) < self.window.batches_max)

    @invariant()
    def what_is_outstanding_is_in_order_and_not_confirmed(self) -> None:
        last_seq = 0
        for first, last, _ in self.window.outstanding:
            assert last_seq < first <= last <= self.window.sent_seq
            assert self.window.confirmed.missing(first, last)
            last_seq = last

    @invariant()
    def it_believes_only_receipts(self) -> None:
        assert all(self.committed.covers(first, last) for first, last in self.window.confirmed)

    @invariant()
    def nothing_behind_the_last_sent_is_forgotten(self) -> None:
        assert self.is_outstanding(self.window.sent_seq)

    def teardown(self) -> None:
        """From wherever it stands: a cloud that works again gets all of it."""
        while not (self.last_seq == 0 or self.committed.covers(1, self.last_seq)):
            self.another_worker_answers()
            while self.window.has_room and self.window.skip_confirmed()[0] < self.last_seq:
                self.send(5)
            assert self.on_the_way, "there is something to send as long as something is missing"
            for batch in self.on_the_way:
                self.committed.add(*batch)
        self.window.confirm(self.committed)
        assert self.window.confirmed.mark == self.last_seq
        assert not self.window.outstanding


TestTrunk = Trunk.TestCase
TestTrunk.settings = settings(deadline=None, max_examples=120, stateful_step_count=40)


@settings(max_examples=60)
@given(st.integers(1, 20), st.integers(1, 50), st.integers(1, 9))
def test_receipts_are_the_credit(batches_max: int, batches: int, records: int) -> None:
    """Without a receipt exactly batches_max leave; each receipt for one lets one more go."""
    window = Window(batches_max, RESEND_S)
    sent = 0
    for committed in range(batches + 1):
        if committed:
            window.confirm(SeqRanges([(1, committed * records)]))
        while window.has_room and sent < batches:
            window.sent(sent * records + 1, (sent + 1) * records, 0.0)
            sent += 1
        assert sent == min(batches, committed + batches_max)


def test_what_is_confirmed_ahead_is_jumped_over() -> None:
    window = Window(9, RESEND_S)
    window.rewind(SeqRanges([(1, 10), (15, 20), (30, 30)]))
    assert window.skip_confirmed() == (10, 14)
    window.sent(11, 14, 0.0)
    assert window.skip_confirmed() == (20, 29)
    window.sent(21, 25, 0.0)
    assert window.skip_confirmed() == (25, 29)
    window.sent(26, 29, 0.0)
    assert window.skip_confirmed() == (30, None)


def test_a_batch_that_is_confirmed_in_part_stays_outstanding() -> None:
    window = Window(9, RESEND_S)
    window.sent(1, 10, 0.0)
    window.confirm(SeqRanges([(1, 9)]))
    assert [batch[:2] for batch in window.outstanding] == [(1, 10)]
    window.confirm(SeqRanges([(10, 10)]))
    assert not window.outstanding


def test_batches_leave_in_order() -> None:
    window = Window(9, RESEND_S)
    with pytest.raises(AssertionError, match="batches leave in order"):
        window.sent(2, 3, 0.0)


def test_a_rewind_keeps_no_hold_of_the_receipt() -> None:
    receipt = SeqRanges([(1, 3)])
    window = Window(9, RESEND_S)
    window.rewind(receipt)
    window.confirm(SeqRanges([(4, 9)]))
    assert receipt == SeqRanges([(1, 3)])

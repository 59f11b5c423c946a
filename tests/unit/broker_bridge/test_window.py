"""The window: bounded, in order; whatever receipts are lost, late or of another worker, all is covered in the end."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from broker_bridge.window import Span, Window
from telemetry.ranges import SeqRanges

RESEND_S = 10.0


class Trunk(RuleBasedStateMachine):
    """An uplink without I/O on a spool that grows, and a cloud that commits, forgets and repeats itself."""

    def __init__(self) -> None:
        super().__init__()
        self.window = Window(3, 8, RESEND_S, long_rows=24, first_rows=2)
        self.now_s = 0.0
        self.last_seq = 0
        self.on_the_way: list[tuple[int, int]] = []
        self.committed = SeqRanges()
        self.receipts = [SeqRanges()]

    @rule(records=st.one_of(st.integers(1, 12), st.integers(25, 60)))
    def the_spool_grows(self, records: int) -> None:
        self.last_seq += records

    @precondition(lambda self: self.window.has_room)
    @rule(records_max=st.integers(1, 8), backlog_first=st.booleans())
    def send(self, records_max: int, backlog_first: bool) -> None:
        spans = self.window.live(self.last_seq), self.window.backlog()
        span = next((span for span in (reversed(spans) if backlog_first else spans) if span), None)
        if span is None:
            return
        first, last = span.after_seq + 1, min(span.after_seq + records_max, span.last_seq)
        assert first <= last <= self.last_seq
        assert self.window.confirmed.missing(first, last) == [(first, last)], "only what is not confirmed"
        assert span.is_backlog == (0 < last <= self.window.live_after)
        self.window.sent(first, last, self.now_s)
        self.on_the_way.append((first, last))

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
        self.window.confirm(data.draw(st.sampled_from(self.receipts)), self.now_s)

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
        self.window.rewind(self.committed, self.last_seq)
        assert not self.window.outstanding
        assert self.window.overdue_in_s(self.now_s) is None

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.window.outstanding) <= self.window.batches_max
        assert self.window.has_room == (len(self.window.outstanding) < self.window.batches_max)

    @invariant()
    def what_is_outstanding_is_disjoint_and_not_confirmed(self) -> None:
        last_seq = 0
        for first, last, _ in sorted(self.window.outstanding):
            assert last_seq < first <= last <= max(self.window.sent_seq, self.window.live_seq)
            assert self.window.confirmed.missing(first, last)
            last_seq = last

    @invariant()
    def no_lane_takes_all_places(self) -> None:
        backlog = [batch.last_seq <= self.window.live_after for batch in self.window.outstanding]
        assert not self.window.live_after or max(map(backlog.count, (True, False))) < self.window.batches_max

    @invariant()
    def it_believes_only_receipts(self) -> None:
        assert all(self.committed.covers(first, last) for first, last in self.window.confirmed)

    @invariant()
    def nothing_behind_the_last_sent_is_forgotten(self) -> None:
        assert self.is_outstanding(self.window.sent_seq)
        gaps = self.window.confirmed.missing(self.window.live_after + 1, self.window.live_seq)
        sent = SeqRanges([(first, last) for first, last, _ in self.window.outstanding])
        assert all(sent.covers(*gap) for gap in gaps)

    def teardown(self) -> None:
        """From wherever it stands: a cloud that works again gets all of it."""
        while not (self.last_seq == 0 or self.committed.covers(1, self.last_seq)):
            self.another_worker_answers()
            while self.window.has_room and (self.window.live(self.last_seq) or self.window.backlog()):
                self.send(5, backlog_first=False)
            assert self.on_the_way, "there is something to send as long as something is missing"
            for batch in self.on_the_way:
                self.committed.add(*batch)
        self.window.confirm(self.committed, self.now_s)
        assert self.window.confirmed.mark == self.last_seq
        assert not self.window.outstanding


TestTrunk = Trunk.TestCase
TestTrunk.settings = settings(deadline=None, max_examples=120, stateful_step_count=40)


@settings(max_examples=60)
@given(st.integers(1, 20), st.integers(1, 50), st.integers(1, 9))
def test_receipts_are_the_credit(batches_max: int, batches: int, records: int) -> None:
    """Without a receipt exactly batches_max leave; each receipt for one lets one more go."""
    window = Window(batches_max, records, RESEND_S)
    sent = 0
    for committed in range(batches + 1):
        if committed:
            window.confirm(SeqRanges([(1, committed * records)]), 0.0)
        while sent < batches and window.live(batches * records):
            window.sent(sent * records + 1, (sent + 1) * records, 0.0)
            sent += 1
        assert sent == min(batches, committed + batches_max)


def test_what_is_confirmed_ahead_is_jumped_over() -> None:
    window = Window(9, 100, RESEND_S)
    window.rewind(SeqRanges([(1, 10), (15, 20), (30, 30)]), 40)
    for first, last in ((11, 14), (21, 25), (26, 29), (31, 40)):
        span = window.live(40)
        assert span is not None
        assert span.after_seq == first - 1
        assert span.last_seq == (last if last != 25 else 29)
        window.sent(first, last, 0.0)
    assert window.live(40) is None


def test_a_batch_that_is_confirmed_in_part_stays_outstanding() -> None:
    window = Window(9, 100, RESEND_S)
    window.sent(1, 10, 0.0)
    window.confirm(SeqRanges([(1, 9)]), 0.0)
    assert [batch[:2] for batch in window.outstanding] == [(1, 10)]
    window.confirm(SeqRanges([(10, 10)]), 0.0)
    assert not window.outstanding


def test_batches_leave_in_order() -> None:
    window = Window(9, 100, RESEND_S)
    with pytest.raises(AssertionError, match="batches leave in order"):
        window.sent(2, 3, 0.0)


def test_a_rewind_keeps_no_hold_of_the_receipt() -> None:
    receipt = SeqRanges([(1, 3)])
    window = Window(9, 100, RESEND_S)
    window.rewind(receipt, 3)
    window.confirm(SeqRanges([(4, 9)]), 0.0)
    assert receipt == SeqRanges([(1, 3)])


# ---- a long backlog


def behind(last_seq: int) -> Window:
    """Four places, batches of 1000 rows, nothing confirmed of a spool that ends at last_seq."""
    window = Window(4, 1000, RESEND_S, long_rows=4000, first_rows=100)
    window.rewind(SeqRanges(), last_seq)
    return window


def test_a_short_backlog_goes_in_order() -> None:
    window = behind(4000)
    assert window.live(4500) == Span(0, 4500)
    assert window.backlog() is None


def test_live_readings_go_before_a_long_backlog() -> None:
    window = behind(4001)
    assert window.live(4001) == Span(3901, 4001), "the newest that waited, too"
    window.sent(3902, 4001, 0.0)
    assert window.live(4001) is None
    assert window.backlog() == Span(0, 100, is_backlog=True)
    window.sent(1, 100, 0.0)
    assert window.backlog() is None, "a backlog begins with little"
    assert window.live(4010) == Span(4001, 4010)
    window.sent(4002, 4010, 0.0)
    window.confirm(SeqRanges([(3902, 4010)]), 0.1)
    assert window.live(4020) == Span(4010, 4020)
    assert window.credit_rows == 100, "only its own batches move a backlog's credit"


def test_a_backlog_leaves_live_readings_a_place() -> None:
    window = behind(100_000)
    window.credit_rows = 50_000
    for number in range(3):
        span = window.backlog()
        assert span == Span(number * 1000, number * 1000 + 50_000, is_backlog=True)
        window.sent(number * 1000 + 1, (number + 1) * 1000, 0.0)
    assert window.backlog() is None
    assert window.live(100_001) == Span(99_900, 100_001)


def test_the_credit_grows_while_receipts_are_quick_and_shrinks_when_they_are_slow() -> None:
    window = behind(100_000)
    grown = []
    sent = 0
    for delay_s in (0.1, 0.1, 0.1, 5.0, 5.0, 5.0, 5.0):
        while span := window.backlog():
            last = min(span.last_seq, span.after_seq + 1000)
            window.sent(span.after_seq + 1, last, 0.0)
            sent = last
        window.confirm(SeqRanges([(1, sent)]), delay_s)
        grown.append(window.credit_rows)
    assert grown == [150, 225, 338, 169, 100, 100, 100]


def test_when_the_backlog_is_sent_there_is_one_lane_again() -> None:
    window = behind(4001)
    assert window.live(4010) == Span(3901, 4010)
    window.sent(3902, 4010, 0.0)
    window.sent(1, 3901, 0.0)
    assert window.backlog() is None
    assert window.live(4020) == Span(4010, 4020)
    assert window.live_after == 0
    window.confirm(SeqRanges([(1, 4010)]), 0.0)
    assert not window.outstanding
    assert window.live(4020) == Span(4010, 4020)


def test_live_readings_that_never_end_leave_the_backlog_a_place() -> None:
    window = behind(100_000)
    for number in range(3):
        assert window.live(200_000) == Span(99_900 + number * 1000, 200_000)
        window.sent(99_901 + number * 1000, 100_900 + number * 1000, 0.0)
    assert window.live(200_000) is None
    assert window.backlog() == Span(0, 100, is_backlog=True)


def test_a_window_of_one_place_has_one_lane() -> None:
    window = Window(1, 10, RESEND_S, long_rows=50, first_rows=5)
    window.rewind(SeqRanges(), 100)
    assert window.live(110) == Span(0, 110)
    assert window.backlog() is None

"""The uplink's memory: what was sent, what is confirmed, where to read on. Pure; time is an argument.

The window holds the batches that were published and are not covered by a receipt yet. Receipts are the
credit: no more than batches_max are outstanding. Anything in doubt (a new connection, a new worker, an
overdue batch) ends in `rewind`, which forgets what was sent and starts again behind the mark: batches may
go twice, the ledger sorts it out.

Two lanes. When more than long_rows are waiting at a rewind, the newest first_rows of them and what comes from then
on go first, in a lane of their own. Each lane leaves the other at least one place; the backlog has about as many
rows under way as its credit. The credit begins with first_rows, grows with every batch that was confirmed within
DELAY_S and shrinks with every one that was not, as in LEDBAT (RFC 6817). So a backlog fills what ingest can take,
without a queue before it in which live readings of anybody had to wait, also when a whole fleet comes back from an
outage. When the backlog is sent the lanes are one again.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from telemetry.ranges import SeqRanges

DELAY_S = 1.5
"""How long a backlog's batch may take to be confirmed before the backlog gives way."""
LONG_ROWS, FIRST_ROWS = 5_000, 500


class Outstanding(NamedTuple):
    """A batch that was sent and is not confirmed. sent_at_s: monotonic."""

    first_seq: int
    last_seq: int
    sent_at_s: float


class Span(NamedTuple):
    """What may be sent next: behind after_seq, up to last_seq, inclusive."""

    after_seq: int
    last_seq: int
    is_backlog: bool = False


@dataclass(slots=True)
class Window:
    """Outstanding batches of one epoch, oldest first; rows_max: of a batch. long_rows > first_rows.

    sent_seq: how far the only lane, or the backlog's, was sent; live_seq: how far the live one was, which began behind
    live_after. live_after = 0: there is one lane.
    """

    batches_max: int
    rows_max: int
    resend_s: float
    long_rows: int = LONG_ROWS
    first_rows: int = FIRST_ROWS
    confirmed: SeqRanges = field(default_factory=SeqRanges)
    outstanding: deque[Outstanding] = field(default_factory=deque)
    sent_seq: int = 0
    live_after: int = 0
    live_seq: int = 0
    credit_rows: int = 0

    def rewind(self, confirmed: SeqRanges, last_seq: int) -> None:
        """Start again behind what is confirmed; last_seq: the last that is there to be sent."""
        self.confirmed = confirmed.copy()
        self.outstanding.clear()
        self.sent_seq = confirmed.mark
        is_long = self.batches_max > 1 and last_seq - confirmed.mark > self.long_rows
        self.live_after = self.live_seq = last_seq - self.first_rows if is_long else 0
        self.credit_rows = self.first_rows

    def confirm(self, confirmed: SeqRanges, now_s: float) -> None:
        """Take a receipt in. Receipts may come late: the confirmed set only grows."""
        for first, last in confirmed:
            self.confirmed.add(first, last)
        still = deque[Outstanding]()
        for batch in self.outstanding:
            if not self.confirmed.covers(batch.first_seq, batch.last_seq):
                still.append(batch)
            elif batch.last_seq <= self.live_after:
                self._adapt(batch, now_s - batch.sent_at_s)
        self.outstanding = still
        self.sent_seq = max(self.sent_seq, self.confirmed.mark)

    def _adapt(self, batch: Outstanding, delay_s: float) -> None:
        rows = batch.last_seq - batch.first_seq + 1
        if delay_s <= DELAY_S:
            self.credit_rows = min(self.credit_rows + -(-rows // 2), self.batches_max * self.rows_max)
        else:
            self.credit_rows = max(self.credit_rows - rows // 2, self.first_rows)

    def sent(self, first_seq: int, last_seq: int, now_s: float) -> None:
        """A batch was handed to the broker."""
        if first_seq == self.sent_seq + 1:
            self.sent_seq = last_seq
        else:
            assert first_seq == self.live_seq + 1 > self.live_after > 0, "batches leave in order"
            self.live_seq = last_seq
        self.outstanding.append(Outstanding(first_seq, last_seq, now_s))

    def live(self, last_seq: int) -> Span | None:
        """What to send of the newest; last_seq: the last that is there. None: nothing, or no place."""
        self._merge()
        if not self.has_room:
            return None
        if not self.live_after:
            self.sent_seq, end = self._behind_confirmed(self.sent_seq, last_seq)
            return Span(self.sent_seq, end) if end > self.sent_seq else None
        self.live_seq, end = self._behind_confirmed(self.live_seq, last_seq)
        is_free = len(self.outstanding) - len(self._backlog_under_way()) < self.batches_max - 1
        return Span(self.live_seq, end) if is_free and end > self.live_seq else None

    def backlog(self) -> Span | None:
        """What to send of a long backlog, if there is one, and place and credit for it."""
        self._merge()
        under_way = self._backlog_under_way()
        if not self.live_after or not self.has_room or len(under_way) >= self.batches_max - 1:
            return None
        if under_way and sum(batch.last_seq - batch.first_seq + 1 for batch in under_way) >= self.credit_rows:
            return None
        end = min(self._behind_confirmed(self.sent_seq, self.live_after)[1], self.sent_seq + self.credit_rows)
        return Span(self.sent_seq, end, is_backlog=True)

    def _backlog_under_way(self) -> list[Outstanding]:
        return [batch for batch in self.outstanding if batch.last_seq <= self.live_after]

    def _merge(self) -> None:
        """One lane again, when the backlog was sent."""
        if self.live_after:
            self.sent_seq, _ = self._behind_confirmed(self.sent_seq, self.live_after)
            if self.sent_seq >= self.live_after:
                self.sent_seq = max(self.sent_seq, self.live_seq)
                self.live_after = 0

    def _behind_confirmed(self, seq: int, last_seq: int) -> tuple[int, int]:
        """From where to where the next gap behind `seq` goes; it ends at last_seq."""
        for first, last in self.confirmed:
            if first <= seq + 1 <= last:
                seq = last
            elif first > seq + 1:
                return seq, min(first - 1, last_seq)
        return seq, last_seq

    @property
    def has_room(self) -> bool:
        return len(self.outstanding) < self.batches_max

    def overdue_in_s(self, now_s: float) -> float | None:
        """Seconds until the oldest outstanding batch is in doubt; None when nothing is outstanding."""
        return self.outstanding[0].sent_at_s + self.resend_s - now_s if self.outstanding else None

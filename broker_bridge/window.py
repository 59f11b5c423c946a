"""The uplink's memory: what was sent, what is confirmed, where to read on. Pure; time is an argument.

The window holds the batches that were published and are not covered by a receipt yet. Receipts are the
credit: no more than batches_max are outstanding. Anything in doubt (a new connection, a new worker, an
overdue batch) ends in `rewind`, which forgets what was sent and starts again behind the mark: batches may
go twice, the ledger sorts it out.
"""

from collections import deque
from dataclasses import dataclass, field

from telemetry.ranges import SeqRanges


@dataclass(slots=True)
class Window:
    """Outstanding batches of one epoch, oldest first, as (first_seq, last_seq, sent_at_s)."""

    batches_max: int
    resend_s: float
    confirmed: SeqRanges = field(default_factory=SeqRanges)
    outstanding: deque[tuple[int, int, float]] = field(default_factory=deque)
    sent_seq: int = 0

    def rewind(self, confirmed: SeqRanges) -> None:
        """Start again behind what is confirmed."""
        self.confirmed = confirmed.copy()
        self.outstanding.clear()
        self.sent_seq = confirmed.mark

    def confirm(self, confirmed: SeqRanges) -> None:
        """Take a receipt in. Receipts may come late: the confirmed set only grows."""
        for first, last in confirmed:
            self.confirmed.add(first, last)
        self.outstanding = deque(b for b in self.outstanding if not self.confirmed.covers(b[0], b[1]))
        self.sent_seq = max(self.sent_seq, self.confirmed.mark)

    def sent(self, first_seq: int, last_seq: int, now_s: float) -> None:
        """A batch was handed to the broker."""
        assert first_seq == self.sent_seq + 1, "batches leave in order"
        self.outstanding.append((first_seq, last_seq, now_s))
        self.sent_seq = last_seq

    def skip_confirmed(self) -> tuple[int, int | None]:
        """(seq after which to read on, last seq to read or None): jumps over what is confirmed ahead."""
        for first, last in self.confirmed:
            if first <= self.sent_seq + 1 <= last:
                self.sent_seq = last
            elif first > self.sent_seq + 1:
                return self.sent_seq, first - 1
        return self.sent_seq, None

    @property
    def has_room(self) -> bool:
        return len(self.outstanding) < self.batches_max

    def overdue_in_s(self, now_s: float) -> float | None:
        """Seconds until the oldest outstanding batch is in doubt; None when nothing is outstanding."""
        return self.outstanding[0][2] + self.resend_s - now_s if self.outstanding else None

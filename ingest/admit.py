"""Admission: which rows of a batch are new. Pure; the ledger decides, row by row (invariant 5).

Per (gateway, epoch) two sets of seqs are kept: what is committed (the ledger's content) and what is claimed
(committed, or on its way there). A batch is cut to the rows that are not claimed yet, so batches may come
twice, late, out of order or cut differently.

Limits: a batch that would leave more than AHEAD_RANGES_MAX ranges beyond the mark is not admitted; its
gateway sends it again once the gaps are closed.
"""

from dataclasses import dataclass, field

from broker_bridge.contract import AHEAD_RANGES_MAX
from ingest.decode import Batch
from telemetry.ranges import SeqRanges

Key = tuple[str, str]
"""(gateway, epoch)"""
Range = tuple[str, str, int, int]
"""(gateway, epoch, first_seq, last_seq), inclusive"""


@dataclass(frozen=True, slots=True)
class Slice:
    """Rows start..stop-1 of a batch (for a loss: the seqs header.first_seq + start …)."""

    batch: Batch
    start: int
    stop: int

    @property
    def range(self) -> Range:
        return self.batch.header.gateway, self.batch.header.epoch, self.first_seq, self.last_seq

    @property
    def first_seq(self) -> int:
        return self.batch.header.first_seq + self.start

    @property
    def last_seq(self) -> int:
        return self.batch.header.first_seq + self.stop - 1

    @property
    def rows(self) -> int:
        return 0 if self.batch.loss is not None else self.stop - self.start


@dataclass(slots=True)
class Admission:
    """The worker's view of the ledger for its partitions."""

    committed: dict[Key, SeqRanges] = field(default_factory=dict)
    claimed: dict[Key, SeqRanges] = field(default_factory=dict)

    def load(self, ledger: dict[Key, SeqRanges]) -> None:
        """Start from the ledger's content."""
        self.committed = ledger
        self.claimed = {key: ranges.copy() for key, ranges in ledger.items()}

    def admit(self, batch: Batch) -> list[Slice]:
        """The new rows of a batch, claimed from now on."""
        header = batch.header
        key = header.gateway, header.epoch
        claimed = self.claimed.setdefault(key, SeqRanges())
        gaps = claimed.missing(header.first_seq, header.last_seq)
        if not gaps:
            return []
        grown = claimed.copy()
        grown.add(header.first_seq, header.last_seq)
        if len(grown) > len(claimed) and len(grown.ahead) > AHEAD_RANGES_MAX:
            return []
        self.claimed[key] = grown
        return [Slice(batch, first - header.first_seq, last - header.first_seq + 1) for first, last in gaps]

    def after(self, ranges: list[Range]) -> dict[Key, SeqRanges]:
        """What the ledger must say once these are in the tables, and all that it says by now."""
        grown: dict[Key, SeqRanges] = {}
        for gateway, epoch, first, last in ranges:
            key = gateway, epoch
            if key not in grown:
                grown[key] = self.committed.get(key, SeqRanges()).copy()
            grown[key].add(first, last)
        return grown

    def commit(self, ledger: dict[Key, SeqRanges]) -> None:
        """The ledger now says this."""
        self.committed.update(ledger)

    def receipt_ranges(self, key: Key) -> SeqRanges:
        """What a receipt may state."""
        return self.committed.get(key, SeqRanges())

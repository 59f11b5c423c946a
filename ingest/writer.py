"""The writer: commits from admitted slices to their rows in the tables.

prepare: the blocks (readings by month, dead letters, losses), each encoded, then the intent is declared. write: the
blocks. Between the two a commit can wait. A block that ClickHouse refuses for its content is bisected: its good rows go
in, each bad row becomes a dead letter with ClickHouse's own reason.

Both block. The worker prepares a commit in one thread while it writes the one before it in another; what has been
written is settled by the ledger.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from ingest.admit import Range, Slice
from ingest.blocks import Block, blocks
from ingest.decode import MEASURED_MS_MAX, MEASURED_MS_MIN
from ingest.insert import ContentError, Insert, Inserter, first_line
from ingest.ledger import Intent, Ledger
from ingest.tables import DEAD_LETTERS, READINGS

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Prepared:
    """A commit whose rows only have to be sent. rows: readings and dead letters; bytes: the memory it takes."""

    intent: Intent
    inserts: list[tuple[Block, Insert]]
    rows: int
    bytes: int


@dataclass(slots=True)
class Writer:
    """Commits for one worker. `inserter` is for the rows; the ledger has its own."""

    inserter: Inserter
    ledger: Ledger

    def prepare(self, slices: list[Slice]) -> Prepared:
        """Build and encode the next commit, and declare it. Raises FencedError or StoppedError."""
        intent = self.ledger.plan(*_scope(slices))
        made = [(block, self.inserter.encode(block.target, block.rows)) for block in blocks(slices, intent.created_ms)]
        held_bytes = sum(block.rows.nbytes + insert.own_bytes for block, insert in made)
        self.ledger.declare(intent)
        return Prepared(intent, made, sum(part.rows for part in slices), held_bytes)

    def write(self, commit: Prepared) -> None:
        """Bring all rows of the commit into the tables. Raises FencedError or StoppedError: their fate is unknown."""
        for block, encoded in commit.inserts:
            for letters in self._insert(block, encoded):
                self.inserter.insert(DEAD_LETTERS, letters)

    def _insert(self, block: Block, encoded: Insert) -> Iterator[pa.Table]:
        """Insert a block; yield dead letters for the rows that ClickHouse refuses."""
        try:
            self.inserter.send(encoded)
        except ContentError as error:
            if block.target.name != READINGS.name:
                raise  # we made these rows ourselves: a defect, not a bad device
            if block.rows.num_rows == 1:
                log.warning("ClickHouse refuses a reading, it becomes a dead letter: %s", first_line(error))
                yield _bury(block.rows, str(error))
                return
            middle = block.rows.num_rows // 2
            for half in (block.rows.slice(0, middle), block.rows.slice(middle)):
                yield from self._insert(Block(block.target, half), self.inserter.encode(block.target, half))


def _scope(slices: list[Slice]) -> tuple[list[Range], int, int]:
    """The seq ranges of a commit, and its earliest and latest measured_at in ms."""
    ranges = [part.range for part in slices]
    times = [part.batch.measured_at[part.start : part.stop] for part in slices if part.rows]
    if not times:
        return ranges, 0, 0
    low, high = min(int(t.min()) for t in times), max(int(t.max()) for t in times)
    return ranges, max(low, MEASURED_MS_MIN), min(high, MEASURED_MS_MAX)


def _bury(reading: pa.Table, reason: str) -> pa.Table:
    """One refused reading as a dead letter: its fields as JSON are its raw bytes."""
    row = reading.to_pylist()[0]
    raw = json.dumps({key: str(value) for key, value in row.items()}).encode()
    letter = {key: row[key] for key in ("gateway", "epoch", "seq", "received_at", "ingested_at")}
    letter |= {"source": f"reading of {row['device']}", "reason": f"ClickHouse: {reason}", "raw": raw}
    return pa.Table.from_pylist([letter], DEAD_LETTERS.schema)

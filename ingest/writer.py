"""The writer: one commit from admitted slices to the ledger.

intent -> blocks (readings by month, dead letters, losses) -> ledger. A block that ClickHouse refuses for its
content is bisected: its good rows go in, each bad row becomes a dead letter with ClickHouse's own reason.
Blocking; runs in the worker's writing thread.
"""

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass

import pyarrow as pa

from ingest.admit import Key, Slice
from ingest.blocks import Block, blocks
from ingest.decode import MEASURED_MS_MAX, MEASURED_MS_MIN
from ingest.insert import ContentError, Inserter, first_line
from ingest.ledger import Ledger
from ingest.tables import DEAD_LETTERS, READINGS
from telemetry.ranges import SeqRanges

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Writer:
    """Commits for one worker."""

    inserter: Inserter
    ledger: Ledger

    def commit(self, slices: list[Slice], marks: dict[Key, SeqRanges]) -> None:
        """Bring all rows of the slices into the tables, then state `marks` in the ledger.

        Raises FencedError or StoppedError; then nothing may be told to any gateway.
        """
        intent = self.ledger.declare(*_scope(slices))
        for block in blocks(slices, intent.created_ms):
            for letters in self._insert(block):
                self.inserter.insert(DEAD_LETTERS, letters)
        self.ledger.settle(intent, marks)

    def _insert(self, block: Block) -> Iterator[pa.Table]:
        """Insert a block; yield dead letters for the rows that ClickHouse refuses."""
        try:
            self.inserter.insert(block.target, block.rows)
        except ContentError as error:
            if block.target is not READINGS:
                raise  # we made these rows ourselves: a defect, not a bad device
            if block.rows.num_rows == 1:
                log.warning("ClickHouse refuses a reading, it becomes a dead letter: %s", first_line(error))
                yield _bury(block.rows, str(error))
                return
            half = block.rows.num_rows // 2
            yield from self._insert(Block(block.target, block.rows.slice(0, half)))
            yield from self._insert(Block(block.target, block.rows.slice(half)))


def _scope(slices: list[Slice]) -> tuple[list[tuple[str, str, int, int]], int, int]:
    """The seq ranges of a commit, and its earliest and latest measured_at in ms."""
    ranges = [(part.batch.header.gateway, part.batch.header.epoch, part.first_seq, part.last_seq) for part in slices]
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

"""One INSERT of a worker: fenced, deduplicated, repeated until its fate is known.

Every statement is `INSERT … SELECT … FROM input(…) WHERE <fence> FORMAT Native`: ClickHouse itself evaluates,
when the statement starts, that this worker still owns its partitions. A worker that hangs, and wakes up after
another has taken over, can therefore write nothing any more, not even with a statement that was already on
its way.

Statement and rows are encoded once (`encode`), and every repetition sends the same bytes, settings and
deduplication token, so an insert whose answer was lost is not stored twice. The token contains a digest of the
rows: it can never stand for other content.
"""

import hashlib
import logging
import threading
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from clickhouse_connect.driver.exceptions import ClickHouseError

from ingest.clickhouse.client import INSERT_SETTINGS, insert, known
from ingest.native import FORMAT, Buffer, encode
from ingest.tables import Target
from telemetry.backoff import Backoff
from telemetry.errors import FieldlineError

log = logging.getLogger(__name__)

FENCED = "fenced: another worker has taken over"
RETRY_S_MIN, RETRY_S_MAX = 0.2, 10.0

CONTENT_CODES = frozenset((6, 25, 26, 27, 32, 33, 38, 41, 53, 69, 70, 72, 117, 131, 168, 190, 321, 349, 407, 469))
"""ClickHouse's error codes that say "these rows": parse and convert errors, values out of range, violated
constraints. Everything else (too many parts, read only, memory, network, password, missing table) can pass,
and is tried again."""


class FencedError(FieldlineError):
    """Another worker owns our partitions now; this one must end."""


class ContentError(FieldlineError):
    """ClickHouse refuses these rows, and always will; the text is its own."""


class StoppedError(FieldlineError):
    """The worker is to stop while an insert waits to be tried again."""


@dataclass(frozen=True, slots=True)
class Insert:
    """An encoded INSERT: what every attempt sends. Parts of `body` that are views share the memory of the rows."""

    target: Target
    statement: str
    body: list[Buffer]
    token: str

    @property
    def own_bytes(self) -> int:
        return sum(len(part) for part in self.body if isinstance(part, bytes))


@dataclass(slots=True)
class Inserter:
    """Inserts for one worker. `encode` may be called from any thread, the rest from one thread at a time.

    client: a clickhouse_connect client; worker: this life's id; partitions: what it owns; stop: ends retries.
    `trouble` is what ClickHouse says while an insert waits, for people.
    """

    client: Any
    worker: str
    partitions: list[int]
    stop: threading.Event
    trouble: str = ""

    def insert(self, target: Target, rows: pa.Table) -> None:
        """Insert all rows as one block; returns when they are committed.

        Raises FencedError, ContentError, StoppedError (then the fate is unknown).
        """
        self.send(self.encode(target, rows))

    def encode(self, target: Target, rows: pa.Table) -> Insert:
        """All rows as one block, ready to be sent."""
        statement = (
            f"/* fieldline worker {self.worker} */ INSERT INTO fieldline.{target.name} ({target.names}) "
            f"SELECT {target.names} FROM input({target.structure}) WHERE {self._fence()} FORMAT {FORMAT}"
        )
        body = encode(target, rows)
        digest = hashlib.blake2b(digest_size=16)
        for part in body:
            digest.update(part)
        return Insert(target, statement, body, f"{self.worker}-{digest.hexdigest()}")

    def send(self, encoded: Insert) -> None:
        """Blocks until the rows are committed. Raises as `insert` does."""
        settings = known(self.client, {**INSERT_SETTINGS, "insert_deduplication_token": encoded.token})
        pause = Backoff(RETRY_S_MIN, RETRY_S_MAX)
        while True:
            try:
                insert(self.client, encoded.statement, encoded.body, settings)
            except (ClickHouseError, OSError) as error:
                self._judge(error, encoded.target)
            else:
                self._say("")
                return
            if self.stop.wait(pause.next_s()):
                raise StoppedError("The worker stops; what was not committed will be sent again.")

    def _judge(self, error: Exception, target: Target) -> None:
        code = getattr(error, "code", None)
        if FENCED in str(error):
            raise FencedError("Another worker has taken over these partitions; this one ends.") from error
        if code in CONTENT_CODES:
            raise ContentError(str(error)) from error
        self._say(f"ClickHouse does not take {target.name} now, trying again: {first_line(error)}")

    def _say(self, trouble: str) -> None:
        if bool(trouble) != bool(self.trouble):
            log.warning("%s", trouble or "ClickHouse takes inserts again.")
        self.trouble = trouble

    def _fence(self) -> str:
        owned = ",".join(map(str, self.partitions))
        return (
            f"NOT throwIf((SELECT countIf(owner != '{self.worker}') FROM "
            "(SELECT argMax(worker, (fence, worker)) AS owner FROM fieldline.workers "
            f"WHERE partition IN ({owned}) GROUP BY partition)) > 0, '{FENCED}')"
        )


def first_line(error: Exception) -> str:
    """An error in a line that people can read."""
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__

"""The ledger and what guards it: fences (table workers), intents, marks.

Order of a commit (invariant 4): intent -> rows -> ledger -> receipt. On start a worker takes the fence of
its partitions, so that no insert of a predecessor can begin any more, kills those that still run, and only
then looks up which rows of open intents are in the tables. Those are committed; the rest comes again.
"""

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from ingest.admit import Key, Range
from ingest.insert import FencedError, Inserter
from ingest.tables import INTENTS, LEDGER
from telemetry.clock import Clock
from telemetry.ranges import SeqRanges

log = logging.getLogger(__name__)

PREDECESSORS_MAX = 100


@dataclass(frozen=True, slots=True)
class Intent:
    """What a worker is about to insert. `created_ms` is the ingested_at of its rows, unique per worker.

    measured_min, measured_max: ms since 1970 UTC, inclusive.
    """

    number: int
    created_ms: int
    ranges: list[Range]
    measured_min: int
    measured_max: int


@dataclass(slots=True)
class Ledger:
    """One worker's access to the ledger. Blocking; used from one thread at a time, but `plan` and `declare` may have
    a thread of their own.

    inserter: for all but intents; intents: for those, by default the same.
    owns: whether a gateway is in our partitions. What the ledger says of others is their workers' to write.
    """

    inserter: Inserter
    clock: Clock
    intents: Inserter | None = None
    fence: int = 0
    number: int = 0
    last_created_ms: int = 0
    settled: deque[Intent] = field(default_factory=deque)
    owns: Callable[[str], bool] = lambda _: True

    def take_over(self) -> dict[Key, SeqRanges]:
        """Own the partitions, recover what a predecessor left, and return the ledger's content.

        Raises FencedError when another worker did the same at this moment and won.
        """
        self.own()
        ledger = self._read()
        self._recover(ledger)
        return ledger

    def own(self) -> None:
        """Become the owner of the partitions, and end what former owners have running.

        Raises FencedError when another worker did the same at this moment and won.
        """
        for worker in self._take_fence():
            self.inserter.client.command(
                f"KILL QUERY WHERE query LIKE '%fieldline worker {worker} %' AND query NOT LIKE 'KILL%' SYNC"
            )
        self.check()

    def check(self) -> None:
        """Raises FencedError when another worker has taken our partitions over."""
        owners = self._rows(
            "SELECT DISTINCT argMax(worker, (fence, worker)) FROM fieldline.workers "
            f"WHERE partition IN ({self._owned}) GROUP BY partition"
        )
        if [owner for (owner,) in owners] != [self.inserter.worker]:
            raise FencedError("Another worker has taken over these partitions; this one ends.")

    @property
    def _owned(self) -> str:
        return ",".join(map(str, self.inserter.partitions))

    def _take_fence(self) -> list[str]:
        """Become the last worker of all partitions; the former ones, latest last.

        They are read after our own row is in: one that came in between would be overlooked. No two workers may
        share a fence, since the versions of ledger entries begin with it: whoever sees it takes another.
        """
        workers = self._workers()
        while True:
            self.fence = 1 + max(workers.values(), default=0)
            self._write_fence()
            workers = self._workers()
            others = {worker: fence for worker, fence in workers.items() if worker != self.inserter.worker}
            if self.fence not in others.values():
                break
        predecessors = [worker for worker, fence in others.items() if fence < self.fence]
        return predecessors[-PREDECESSORS_MAX:]

    def _workers(self) -> dict[str, int]:
        """All workers that ever had one of our partitions, with their fences, latest last."""
        rows = self._rows(
            "SELECT worker, max(fence) AS latest FROM fieldline.workers "
            f"WHERE partition IN ({self._owned}) GROUP BY worker ORDER BY latest"
        )
        return {worker: int(latest) for worker, latest in rows}

    def _write_fence(self) -> None:
        values = ",".join(
            f"({partition}, {self.fence}, '{self.inserter.worker}', now64(3))" for partition in self.inserter.partitions
        )
        self.inserter.client.command(
            "INSERT INTO fieldline.workers (partition, fence, worker, started_at) "
            f"SETTINGS async_insert = 0 VALUES {values}"
        )

    def _read(self) -> dict[Key, SeqRanges]:
        rows = self._rows(
            "SELECT gateway, epoch, argMax(mark, version), argMax(ahead.first, version), "
            "argMax(ahead.last, version) FROM fieldline.ledger GROUP BY gateway, epoch"
        )
        ledger = {}
        for gateway, epoch, mark, firsts, lasts in rows:
            if not self.owns(gateway):
                continue
            ledger[gateway, epoch] = SeqRanges(zip(firsts, lasts, strict=True))
            if mark:
                ledger[gateway, epoch].add(1, mark)
        return ledger

    def _recover(self, ledger: dict[Key, SeqRanges]) -> None:
        """Look up the rows of open intents of these partitions; what is in the tables is committed.

        An intent of a worker that owned more than we do stays open, for the others' workers to look up, too.
        """
        open_intents = self._rows(
            "SELECT worker, number, toUnixTimestamp64Milli(any(created_at)) AS created_ms, "
            "any(ranges.gateway), any(ranges.epoch), "
            "toUnixTimestamp64Milli(any(measured_min)), toUnixTimestamp64Milli(any(measured_max)) "
            f"FROM fieldline.intents WHERE hasAny(partitions, [{self._owned}]) "
            "GROUP BY worker, number HAVING max(done) = 0 ORDER BY created_ms"
        )
        touched: set[Key] = set()
        for worker, number, created_ms, gateways, epochs, measured_min, measured_max in open_intents:
            found = self._look_up(created_ms, measured_min, measured_max, set(zip(gateways, epochs, strict=True)))
            count = sum(ranges.count() for ranges in found.values())
            log.info("Intent %d of worker %s was open: %d of its records are stored.", number, worker, count)
            for key, present in found.items():
                for first, last in present:
                    ledger.setdefault(key, SeqRanges()).add(first, last)
                touched.add(key)
        if touched:
            self.write({key: ledger[key] for key in touched})
        for worker, number, _, gateways, *_ in open_intents:
            if not all(map(self.owns, gateways)):
                continue
            self.inserter.client.command(
                "INSERT INTO fieldline.intents SELECT * REPLACE (1 AS done) FROM fieldline.intents "
                f"WHERE worker = '{worker}' AND number = {number} LIMIT 1"
            )

    def _look_up(self, created_ms: int, measured_min: int, measured_max: int, keys: set[Key]) -> dict[Key, SeqRanges]:
        """Which seqs of these spools stand in the tables under this ingested_at."""
        at, low, high = (f"fromUnixTimestamp64Milli({ms}, 'UTC')" for ms in (created_ms, measured_min, measured_max))
        found: dict[Key, SeqRanges] = {}
        rows = self._rows(
            "SELECT gateway, epoch, arraySort(groupUniqArray(seq)) FROM ("
            "SELECT toString(gateway) AS gateway, toString(epoch) AS epoch, seq FROM fieldline.readings "
            f"WHERE ingested_at = {at} AND measured_at BETWEEN {low} AND {high} "
            "UNION ALL SELECT toString(gateway), toString(epoch), seq FROM fieldline.dead_letters "
            f"WHERE ingested_at = {at}) GROUP BY gateway, epoch"
        )
        for gateway, epoch, seqs in rows:
            stored = SeqRanges(runs(np.asarray(seqs, np.int64)))
            found[gateway, epoch] = stored
        losses = self._rows(
            "SELECT toString(gateway), toString(epoch), first_seq, last_seq FROM fieldline.losses "
            f"WHERE ingested_at = {at}"
        )
        for gateway, epoch, first, last in losses:
            found.setdefault((gateway, epoch), SeqRanges()).add(first, last)
        return {key: ranges for key, ranges in found.items() if key in keys and self.owns(key[0])}

    def plan(self, ranges: list[Range], measured_min: int, measured_max: int) -> Intent:
        """The next intent. Intents are to be declared in the order in which they were planned."""
        self.number += 1
        self.last_created_ms = max(self.clock.now_ms(), self.last_created_ms + 1)
        return Intent(self.number, self.last_created_ms, ranges, measured_min, measured_max)

    def declare(self, intent: Intent) -> None:
        """Write the intent, and with it that those which were settled by now are done."""
        done = [self.settled.popleft() for _ in range(len(self.settled))]
        rows = [self._row(settled, 1) for settled in done] + [self._row(intent, 0)]
        (self.intents or self.inserter).insert(INTENTS, pa.Table.from_pylist(rows, INTENTS.schema))

    def _row(self, intent: Intent, done: int) -> dict[str, object]:
        return {
            "worker": self.inserter.worker,
            "number": intent.number,
            "done": done,
            "partitions": self.inserter.partitions,
            "created_at": intent.created_ms,
            "ranges": [
                {"gateway": gateway, "epoch": epoch, "first": first, "last": last}
                for gateway, epoch, first, last in intent.ranges
            ],
            "measured_min": intent.measured_min,
            "measured_max": intent.measured_max,
        }

    def settle(self, intent: Intent, marks: dict[Key, SeqRanges]) -> None:
        """The intent's rows are in the tables: write the ledger."""
        self.write(marks, intent.number)
        self.settled.append(intent)

    def write(self, marks: dict[Key, SeqRanges], number: int = 0) -> None:
        """State what is committed, in one insert of one block: all or nothing. number: of the intent it settles."""
        now_ms = self.clock.now_ms()
        rows = [
            {
                "gateway": gateway,
                "epoch": epoch,
                "mark": ranges.mark,
                "ahead": [{"first": first, "last": last} for first, last in ranges.ahead],
                "worker": self.inserter.worker,
                "intent": number,
                "version": (self.fence << 40) + number,
                "committed_at": now_ms,
            }
            for (gateway, epoch), ranges in marks.items()
        ]
        self.inserter.insert(LEDGER, pa.Table.from_pylist(rows, LEDGER.schema))

    def _rows(self, query: str) -> list[tuple[Any, ...]]:
        return list(self.inserter.client.query(query).result_rows)


def runs(seqs: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Sorted distinct integers as closed ranges."""
    if not seqs.size:
        return []
    cuts = np.flatnonzero(np.diff(seqs) != 1)
    firsts = seqs[np.concatenate(([0], cuts + 1))]
    lasts = seqs[np.concatenate((cuts, [seqs.size - 1]))]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))

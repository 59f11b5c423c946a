"""A spool that nobody writes to any more: an export, or a damaged one. It can be read and sent, exactly once.

Every record keeps its epoch and seq, so the ledger sorts out what has already arrived. What is missing between
records that can be read is a declared loss. A reading whose series cannot be read any more becomes a dead letter
that holds its time and value.

Opening reads the whole file once (edge_agent.sqlite_pages) and keeps one entry per page of chunks: a few MB of
memory for a spool of gigabytes. A row counts as a chunk only when its checksum is right and its stamp names this
epoch and its place, so garbage, and pages that SQLite had freed, do no harm.

A copy is a source for the uplink, as a spool is (broker_bridge.uplink.Source).
"""

import json
import time
from array import array
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from edge_agent import chunk
from edge_agent.boot import Began, date
from edge_agent.sqlite_pages import Pages, Value
from telemetry.columns import DEAD, NAN, Columns, DeadLetter, Series
from telemetry.errors import FieldlineError
from telemetry.ranges import SeqRanges
from telemetry.records import Loss, Records

UNREADABLE = "damaged in the spool: could not be read any more"
KNOWN_FILE = "known.json"
"""Beside a damaged database: what its agent knew of it when it found the damage (Known)."""


class Known(NamedTuple):
    """A spool's numbers, as its agent had them in memory."""

    gateway: str = ""
    epoch: str = ""
    mark: int = 0
    last_seq: int = 0


def known(file: Path) -> Known:
    """What is said beside a database; nothing for an export."""
    try:
        said = json.loads(file.with_name(KNOWN_FILE).read_text())
        return Known(str(said["gateway"]), str(said["epoch"]), int(said["mark"]), int(said["last_seq"]))
    except (OSError, ValueError, KeyError, TypeError):
        return Known()


class _Chunk(NamedTuple):
    stamp: chunk.Stamp
    body: bytes

    @property
    def first(self) -> int:
        return self.stamp.first_seq

    @property
    def last(self) -> int:
        return self.stamp.first_seq + self.stamp.records - 1


class SpoolCopy:
    """An open copy. Blocking; used from one thread at a time. Close it after use.

    gateway: as the file says, else as given. mark: the last receipt that its agent had seen, or that `trim` was told.
    next_seq: one past the last record or loss that is known. held: the seqs behind the mark that can be read.
    journal: the fingerprints of its agent's last messages. Raises FieldlineError when it finds no spool in the file.
    """

    is_copy = True

    def __init__(self, file: Path, gateway: str = "") -> None:
        self.gateway, self.epoch, self.mark, last_seq = known(file)
        self.held = SeqRanges()
        self._series: dict[int, Series] = {}
        self._losses: dict[int, Loss] = {}
        self._journal: dict[int, bytes] = {}
        self._ends: dict[str, int] = {}
        self._boots: dict[bytes, Began] = {}
        self._firsts, self._lasts, self._places = array("Q"), array("Q"), array("Q")
        try:
            self._pages = Pages(file)
        except OSError as error:
            raise FieldlineError(f"cannot read {file}: {error.strerror}") from error
        try:
            self._scan(file)
            self.gateway = self.gateway or gateway
            end = max(self.mark, self.held.last, self._ends.get(self.epoch, 0), last_seq)
            for first, loss in sorted(self._losses.items()):
                if first <= end + 1:
                    end = max(end, loss.last_seq)
            self.next_seq = end + 1
        except BaseException:
            self.close()
            raise

    def _scan(self, file: Path) -> None:
        """Look at every row once. Per epoch, a run is (first_seq, last_seq, page) of chunks that touch each other."""
        runs: defaultdict[str, list[tuple[int, int, int]]] = defaultdict(list)
        for number in range(1, len(self._pages) + 1):
            for rowid, row in self._pages.rows(number):
                found = _chunk(rowid, row)
                if found is None:
                    self._take(rowid, row)
                    continue
                of_epoch = runs[found.stamp.epoch]
                if of_epoch and of_epoch[-1][1:] == (found.first - 1, number):
                    of_epoch[-1] = of_epoch[-1][0], found.last, number
                else:
                    of_epoch.append((found.first, found.last, number))
        if not self.epoch and runs:  # nothing else says it
            self.epoch = max(runs, key=lambda epoch: max(runs[epoch])[1])
        if not self.epoch:
            raise FieldlineError(f"{file} is no spool, or nothing in it can be read")
        self._index(sorted(runs[self.epoch]))

    def _take(self, rowid: int, row: list[Value]) -> None:
        """A row of another table than `chunks`."""
        match row:
            case [None, str(gateway), str(epoch), int(mark)] if rowid == 1:
                if self.epoch in ("", epoch):
                    self.gateway, self.epoch, self.mark = gateway, epoch, max(self.mark, mark)
            case [None, str(device), str(metric), str(unit), *more] if len(more) <= 1:  # tags, since format 4
                self._series[rowid] = Series(device, metric, unit, *map(str, more))
            case [None, int(last), str(reason), int(at)] if 0 < rowid <= last:
                if rowid not in self._losses or self._losses[rowid].last_seq < last:  # else an older version of it
                    self._losses[rowid] = Loss(rowid, last, reason, at)
            case [None, bytes(boot), int(at), int(is_estimate)]:
                self._boots[boot] = Began(at, bool(is_estimate))
            case [None, int(last), str(epoch), bytes(keys)] if len(keys) % 8 == 0:
                self._journal[rowid] = keys
                self._ends[epoch] = max(self._ends.get(epoch, 0), last)

    def _index(self, runs: list[tuple[int, int, int]]) -> None:
        """Which page to read for a seq. Of runs in ascending order, leave out what only repeats others."""
        end = self.mark
        for first, last, number in runs:
            if last > end:
                first = max(first, end + 1)  # noqa: PLW2901 - the rest of it
                for column, value in ((self._firsts, first), (self._lasts, last), (self._places, number)):
                    column.append(value)
                self.held.add(first, last)
                end = last

    @property
    def readable(self) -> int:
        """How many of the records that waited when it was opened can be read."""
        return self.held.count()

    @property
    def journal(self) -> list[int]:
        """The fingerprints of the last messages, the latest last."""
        keys: array[int] = array("Q")
        for _, part in sorted(self._journal.items()):
            keys.frombytes(part)
        return list(keys)

    def series(self, id_: int) -> Series:
        """The series behind an id."""
        return self._series[id_]

    def read(self, after_seq: int, records_max: int, bytes_max: int) -> Records | Loss | None:
        """As Spool.read: the next run of records, or the loss, that follows after_seq; None at the end."""
        first = after_seq + 1
        if first >= self.next_seq:
            return None
        for gap_first, gap_last in self.held.missing(first, self.next_seq - 1):
            if gap_first == first:
                return self._loss(first, gap_last)
            break
        columns = chunk.gather(self._from(first), after_seq, records_max, bytes_max)
        return Records(first, columns)

    def _loss(self, first: int, last: int) -> Loss:
        """What is known of a gap: the reason that its agent had declared, if one covers its beginning."""
        for loss in self._losses.values():
            if loss.first_seq <= first <= loss.last_seq:
                return Loss(first, min(last, loss.last_seq), loss.reason, loss.declared_at)
        later = [loss.first_seq for loss in self._losses.values() if first < loss.first_seq <= last]
        return Loss(first, min(later) - 1 if later else last, UNREADABLE, time.time_ns() // 1_000_000)

    def _from(self, seq: int) -> Iterator[tuple[int, Columns]]:
        """(first_seq, columns) of the chunk that holds seq, and of all that follow."""
        for index in range(max(bisect_right(self._firsts, seq) - 1, 0), len(self._places)):
            first, last = max(self._firsts[index], seq), self._lasts[index]
            for rowid, row in self._pages.rows(self._places[index]):
                found = _chunk(rowid, row)
                if found and found.stamp.epoch == self.epoch and found.last >= first and found.first <= last:
                    yield found.first, self._named(self._dated(found.body))

    def _dated(self, body: bytes) -> Columns:
        """With its times, if its agent had learned when they were; else as its gateway's clock had them."""
        columns, uptime = chunk.unpack(body), chunk.uptime(body)
        if uptime is not None and uptime.boot in self._boots:
            date(columns, uptime, self._boots[uptime.boot])
        return columns

    def _named(self, columns: Columns) -> Columns:
        """Readings of unknown series as dead letters, in place."""
        if set(columns.series) <= self._series.keys() | {DEAD}:
            return columns
        for i, id_ in enumerate(columns.series):
            if id_ != DEAD and id_ not in self._series:
                text, value = columns.texts.pop(i, None), columns.value[i]
                raw = {"ts": columns.measured_at[i], "value": value if text is None else text}
                reason = f"the spool was damaged: what series {id_} was called could not be read any more"
                columns.dead[i] = DeadLetter("spool", json.dumps(raw).encode(), reason)
                columns.series[i], columns.value[i] = DEAD, NAN
        return columns

    def trim(self, mark: int) -> None:
        """A receipt covers everything up to mark. Nothing is written."""
        self.mark = max(self.mark, mark)

    def renew_epoch(self) -> None:
        """Never called for a copy: whatever the cloud holds beyond it, its agent has sent."""
        raise AssertionError

    def close(self) -> None:
        """Let the file go."""
        self._pages.close()


def _chunk(rowid: int, row: list[Value]) -> _Chunk | None:
    match row:
        case [None, int(records), int(), int(crc), bytes(body)]:
            stamp = chunk.stamp(body, crc)
            if stamp is not None and stamp[1:] == (rowid, records) and records > 0:
                return _Chunk(stamp, body)
    return None

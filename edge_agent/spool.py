"""The spool: the gateway's durable queue on disk. What it has taken, it keeps until a receipt covers it.

One directory, one owner (a lock file), one SQLite database in WAL mode with synchronous=FULL: when a commit
returns, its records survive a power cut (as far as the disk honours fsync). Tables:

  meta     one row: gateway, epoch (random, made with the spool), mark (the last receipt)
  series   id -> device, metric, unit, tags; ids are dense from 0 and never change within an epoch
  chunks   one row per commit: first_seq, records, received_at, crc, body (edge_agent.chunk)
  losses   declared ranges of seqs that were evicted on purpose, until a receipt covers them
  journal  per commit its last seq and the fingerprints of its messages, JOURNAL_KEYS_MAX in all, written in the same
           transaction: a message that its sender repeats after a crash is not spooled twice
  births   the Sparkplug birth certificates that hold, by topic (edge_agent.sparkplug), written with the records of the
           same messages
  thinned  one row: how many readings were left out on purpose (edge_agent.processing) since the spool was made, written
           with the fingerprints of their messages: none is counted twice
  windows  the open windows of series (edge_agent.windows), written with the same messages: each is in its own once
  boots    when boots began that took records before their clock was set (edge_agent.spool_dates)

Invariant: chunks and losses together hold every seq from mark+1 to next_seq-1, without holes or overlaps.
All methods block; the agent calls them from one thread. `read` and `status` of another process are safe at
any time (WAL).

Limits: bytes_max for the database, free_bytes_min on its file system. A full spool raises SpoolFullError
("block") or evicts its oldest chunks and declares them lost ("drop_oldest").
"""

import contextlib
import logging
import secrets
import shutil
import sqlite3
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from edge_agent import chunk, quarantine, spool_dates, spool_file
from edge_agent.boot import Began, Boot
from edge_agent.config import Spool as SpoolConfig
from edge_agent.journal import Journal
from edge_agent.spool_file import Status, told
from telemetry.columns import Columns, Series
from telemetry.errors import FieldlineError, SpoolCorruptError, SpoolFullError
from telemetry.records import Loss, Records

log = logging.getLogger(__name__)

BYTES_RESERVED = 256 * 1024
"""Room that a commit may need for pages beside its body."""


class Spool:
    """An open spool; use `open_spool`, which also deals with what cannot be opened."""

    is_copy = False
    boot: Boot | None = None
    """Set by an agent that waits for the time; without it nothing becomes undated."""

    def __init__(self, config: SpoolConfig, gateway: str, series_max: int = 1_000_000) -> None:
        self._config = config
        self._series_max = series_max
        config.path.mkdir(parents=True, exist_ok=True)
        self._lock = spool_file.lock(config.path)
        quarantine.complete(config.path)
        self._db = spool_file.connect(config.path / "spool.db", self._lock)
        try:
            self._load(gateway)
        except BaseException:
            self.close()
            raise

    @told()
    def _load(self, gateway: str) -> None:
        spool_file.prepare(self._db, self._config.path)
        meta = self._db.execute("SELECT gateway, epoch, mark FROM meta").fetchone()
        if meta is None:
            meta = (gateway, secrets.token_hex(8), 0)
            with self._transaction():
                self._db.execute("INSERT INTO meta VALUES (1, ?, ?, ?)", meta)
                Journal(self._db).write(quarantine.journal(self._config.path), meta[1], 0)
        if meta[0] != gateway:
            raise FieldlineError(
                f"The spool in {self._config.path} belongs to gateway {meta[0]!r}, the config says "
                f"{gateway!r}. Give the agent another spool.path, or the gateway its old name."
            )
        self.gateway, self.epoch, self.mark = meta
        self._load_series()
        self._page_bytes = self._pragma("page_size")
        self._undated_boot = spool_dates.last_boot(self._db)  # of the last chunk
        self._has_said_undated = False
        self._journal = Journal(self._db)
        self.next_seq = spool_file.last_seq_of(self._db, self.mark) + 1

    @property
    def bytes_max(self) -> int:
        """The limit of the database's size."""
        return self._config.bytes_max

    def _load_series(self) -> None:
        rows = self._db.execute("SELECT id, device, metric, unit, tags FROM series ORDER BY id")
        self._series = [Series(*row[1:]) for row in rows]
        self._ids = {series: id_ for id_, series in enumerate(self._series)}
        self._series_saved = len(self._series)

    def series_id(self, series: Series) -> int:
        """The id of a series, made now if it is new and made durable with the next commit.

        Raises FieldlineError when series_max is reached.
        """
        id_ = self._ids.get(series)
        if id_ is None:
            id_ = len(self._series)
            if id_ >= self._series_max:
                raise FieldlineError(
                    f"the gateway already has {id_} series: raise collect.series_max, or look for a device "
                    "that puts changing values into its metric names"
                )
            self._series.append(series)
            self._ids[series] = id_
        return id_

    def series(self, id_: int) -> Series:
        """The series behind an id."""
        return self._series[id_]

    def knows(self, key: int) -> bool:
        """Whether a message with this fingerprint is among the last ones committed."""
        return key in self._journal

    @told()
    def append(
        self,
        columns: Columns,
        keys: Sequence[int] = (),
        now_ms: int = 0,
        births: Mapping[str, bytes | None] | None = None,
        thinned: int = 0,
        windows: Mapping[int, bytes] | None = None,
    ) -> tuple[int, int]:
        """Commit records and the fingerprints of their messages; durable on return. (first_seq, last_seq).

        births: topic -> the birth certificate to keep from now on, None to forget it.
        thinned: how many readings of these messages were left out on purpose; it may be that no record is left.
        windows: id of a series -> the window that it has from now on.
        Raises SpoolFullError, FieldlineError and OSError (nothing was taken, try again later), SpoolCorruptError.
        """
        earliest_ms = min(columns.received_at, default=now_ms)
        uptime = self.boot.uptime(earliest_ms) if self.boot else None
        body = chunk.pack(self.epoch, self.next_seq, columns, uptime) if columns else b""
        beside = [payload or b"" for payload in (*(births or {}).values(), *(windows or {}).values())]
        self._make_room(len(body) + sum(map(len, beside)), now_ms)
        first = self.next_seq
        series_end = len(self._series)
        with self._transaction():
            new = [(i, *self._series[i]) for i in range(self._series_saved, series_end)]
            self._db.executemany("INSERT INTO series VALUES (?, ?, ?, ?, ?)", new)
            if columns:
                self._db.execute(
                    "INSERT INTO chunks VALUES (?, ?, ?, ?, ?)",
                    (first, len(columns), earliest_ms, zlib.crc32(body), body),
                )
            if thinned:
                self._db.execute("INSERT OR IGNORE INTO thinned VALUES (1, 0)")
                self._db.execute("UPDATE thinned SET readings = readings + ?", (thinned,))
            self._journal.write(keys, self.epoch, first + len(columns) - 1)
            self._write_births(births or {})
            self._db.executemany("INSERT OR REPLACE INTO windows VALUES (?, ?)", (windows or {}).items())
            if self.boot and self._undated_boot == self.boot.id and (began_ms := self.boot.began()) is not None:
                spool_dates.write(self._db, self.boot.id, Began(began_ms, is_estimate=False))
        self._series_saved = series_end
        if columns:
            self._undated_boot = uptime.boot if uptime else None
        self._journal.remember(keys)
        self.next_seq = first + len(columns)
        return first, self.next_seq - 1

    def _write_births(self, births: Mapping[str, bytes | None]) -> None:
        for topic, payload in births.items():
            self._db.execute("DELETE FROM births WHERE topic = ?", (topic,))
            if payload is not None:
                self._db.execute("INSERT INTO births (topic, payload) VALUES (?, ?)", (topic, payload))

    @told()
    def births(self) -> dict[str, bytes]:
        """The birth certificates that hold, in the order of arrival. Raises FieldlineError, SpoolCorruptError."""
        return dict(self._db.execute("SELECT topic, payload FROM births ORDER BY id"))

    @told()
    def windows(self) -> dict[int, bytes]:
        """The windows of series, by id. Raises FieldlineError, SpoolCorruptError."""
        return dict(self._db.execute("SELECT id, packed FROM windows"))

    @told()
    def read(self, after_seq: int, records_max: int, bytes_max: int) -> Records | Loss | None:
        """The next run of records, or the declared loss, that follows after_seq; None when there is none.

        Runs end before a loss, at records_max, or where bytes_max (uncompressed) would be passed; they hold
        at least one record. Raises FieldlineError, OSError, SpoolCorruptError.
        """
        loss = self._db.execute(
            "SELECT first_seq, last_seq, reason, declared_at FROM losses WHERE last_seq > ? ORDER BY first_seq LIMIT 1",
            (after_seq,),
        ).fetchone()
        if loss and loss[0] <= after_seq + 1:
            return Loss(after_seq + 1, *loss[1:])
        damaged: list[tuple[int, int, bytes]] = []
        undated: list[int] = []
        with contextlib.closing(self._chunks_from(after_seq + 1)) as rows:
            columns = chunk.gather(self._whole(rows, damaged, undated), after_seq, records_max, bytes_max)
        if columns:
            return Records(after_seq + 1, columns)
        if undated:
            return self.read(after_seq, records_max, bytes_max) if self._date(undated[0]) else None
        return replace(self._declare_damaged(*damaged[0]), first_seq=after_seq + 1) if damaged else None

    def _whole(
        self, rows: Iterable[tuple[int, int, int, bytes]], damaged: list[tuple[int, int, bytes]], undated: list[int]
    ) -> Iterator[tuple[int, Columns]]:
        """(first_seq, columns) of chunks up to the first that is damaged or undated, which is put there."""
        for first, records, crc, body in rows:
            if chunk.stamp(body, crc) != (self.epoch, first, records):
                damaged.append((first, first + records - 1, body))
                return
            if chunk.uptime(body) is not None:
                undated.append(first)
                return
            yield first, chunk.unpack(body)

    def _date(self, first_seq: int) -> bool:
        """Give the undated chunk at first_seq, and some of those behind it, their times; False while nobody knows them.

        Durable before anything of them is sent.
        """
        found = spool_dates.began_of(self._db, first_seq, self.boot)
        if found is None:
            self._say_undated()
            return False
        self._db.execute("PRAGMA secure_delete = ON")  # no salvage shall find a record with its old times, too
        with self._transaction():
            spool_dates.date_from(self._db, self.epoch, first_seq, *found)
        self._db.execute("PRAGMA secure_delete = OFF")
        return True

    def _say_undated(self) -> None:
        if not self._has_said_undated:
            log.warning(
                "The gateway's clock is not set: what arrived without a date is kept, and sent once it is. "
                "Set the clock, or say wait_for_clock = false in [time]."
            )
        self._has_said_undated = True

    def _chunks_from(self, seq: int) -> sqlite3.Cursor:
        """(first_seq, records, crc, body) of the chunk that holds seq, and of all that follow."""
        return self._db.execute(
            "SELECT first_seq, records, crc, body FROM chunks WHERE first_seq >= "
            "coalesce((SELECT max(first_seq) FROM chunks WHERE first_seq <= ?), 0) AND first_seq + records > ? "
            "ORDER BY first_seq",
            (seq, seq),
        )

    @told()
    def trim(self, mark: int) -> None:
        """Free what a receipt covers: every record up to `mark`. Raises FieldlineError, SpoolCorruptError."""
        if mark <= self.mark:
            return
        assert mark < self.next_seq, "a receipt beyond the end is dealt with by renew_epoch"
        with self._transaction():
            # By first_seq, which has the index: a trim of a long backlog must not look at all of it.
            self._db.execute("DELETE FROM chunks WHERE first_seq <= ? AND first_seq + records - 1 <= ?", (mark, mark))
            self._db.execute("DELETE FROM losses WHERE last_seq <= ?", (mark,))
            self._db.execute("UPDATE meta SET mark = ?", (mark,))
        self.mark = mark

    @told()
    def renew_epoch(self) -> None:
        """Begin a new epoch with everything that is waiting, losses too, renumbered from 1.

        For the case that the cloud holds seqs of this epoch which the spool never gave: the disk lost
        commits that it had confirmed, or an old copy was restored. Nothing waiting is lost by this.
        Raises FieldlineError, OSError, SpoolCorruptError.
        """
        self.read(self.mark, 1, 1)  # finds out whether the first chunk is damaged, and then declares it lost
        self._db.execute("PRAGMA secure_delete = ON")  # no salvage shall find a record under its old seq, too
        with self._transaction():
            self._cut_first_chunk()
            epoch = secrets.token_hex(8)
            rows = self._db.execute(
                "SELECT first_seq, records, 'chunks' FROM chunks UNION ALL "
                "SELECT first_seq, last_seq - first_seq + 1, 'losses' FROM losses ORDER BY first_seq"
            ).fetchall()
            next_seq = 1
            for first, records, table in rows:  # ascending, and never upwards: no collision
                if table == "chunks":
                    self._restamp(first, epoch, next_seq)
                else:
                    ends = next_seq, next_seq + records - 1
                    self._db.execute(
                        "UPDATE losses SET first_seq = ?, last_seq = ? WHERE first_seq = ?", (*ends, first)
                    )
                next_seq += records
            self._db.execute("UPDATE meta SET epoch = ?, mark = 0", (epoch,))
        self.epoch, self.mark, self.next_seq = epoch, 0, next_seq

    def _cut_first_chunk(self) -> None:
        """Take off what a receipt covers; `trim` frees whole chunks and losses only."""
        start = self.mark + 1
        self._db.execute("UPDATE losses SET first_seq = ? WHERE first_seq < ?", (start, start))
        row = self._db.execute(
            "SELECT first_seq, records, body FROM chunks WHERE first_seq < ? AND first_seq + records > ?",
            (start, start),
        ).fetchone()
        if row is not None:
            first, records, body = row
            body = chunk.pack(self.epoch, start, chunk.unpack(body).slice(start - first, records), chunk.uptime(body))
            self._db.execute(
                "UPDATE chunks SET first_seq = ?, records = ?, crc = ?, body = ? WHERE first_seq = ?",
                (start, first + records - start, zlib.crc32(body), body, first),
            )

    def _restamp(self, first_seq: int, epoch: str, next_seq: int) -> None:
        crc, body = self._db.execute("SELECT crc, body FROM chunks WHERE first_seq = ?", (first_seq,)).fetchone()
        if chunk.stamp(body, crc):  # one that is damaged stays so
            body = chunk.restamp(epoch, next_seq, body)
            crc = zlib.crc32(body)
        self._db.execute(
            "UPDATE chunks SET first_seq = ?, crc = ?, body = ? WHERE first_seq = ?", (next_seq, crc, body, first_seq)
        )

    @told()
    def status(self) -> Status:
        """A summary, by index lookups only. Raises FieldlineError, SpoolCorruptError."""
        return spool_file.status_of(self._db)

    def close(self) -> None:
        """Close the database and give up the lock."""
        self._db.close()
        self._lock.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            yield

    def _make_room(self, body_bytes: int, now_ms: int) -> None:
        needed = body_bytes + BYTES_RESERVED
        can_drop = self._config.when_full == "drop_oldest" and needed <= self._config.bytes_max
        while (full := self._full(needed)) is not None:
            if not can_drop or not self._drop_oldest(now_ms):
                raise SpoolFullError(full)

    def _full(self, coming_bytes: int) -> str | None:
        free_in_file = self._pragma("freelist_count") * self._page_bytes
        used = self._pragma("page_count") * self._page_bytes - free_in_file
        if used + coming_bytes > self._config.bytes_max:
            return (
                f"The spool is full ({used / 1e6:.0f} MB, spool.bytes_max is "
                f"{self._config.bytes_max / 1e6:.0f} MB). Check the uplink, or raise spool.bytes_max."
            )
        free = shutil.disk_usage(self._config.path).free
        if free < self._config.free_bytes_min and free_in_file < coming_bytes:
            return (
                f"The disk is nearly full ({free / 1e6:.0f} MB free, spool.free_bytes_min is "
                f"{self._config.free_bytes_min / 1e6:.0f} MB). Free some space on the gateway."
            )
        return None

    def _pragma(self, name: str) -> int:
        value: int = self._db.execute(f"PRAGMA {name}").fetchone()[0]
        return value

    def _drop_oldest(self, now_ms: int) -> bool:
        """Evict the oldest chunk and declare the loss; False when nothing is left to evict."""
        row = self._db.execute("SELECT first_seq, records FROM chunks ORDER BY first_seq LIMIT 1").fetchone()
        if row is None:
            return False
        first, last = max(row[0], self.mark + 1), row[0] + row[1] - 1
        self._replace_by_loss(row[0], first, last, "evicted: the spool was full (drop_oldest)", now_ms)
        return True

    def _declare_damaged(self, first: int, last: int, body: bytes) -> Loss:
        """A chunk whose checksum fails: keep its bytes in a file beside the spool, declare the loss."""
        kept = self._config.path / f"damaged-{self.epoch}-{first}-{last}.chunk"
        kept.write_bytes(body)
        reason = f"damaged in the spool (checksum); its bytes are kept at the gateway in {kept.name}"
        log.error("Records %d-%d were %s.", first, last, reason)
        chunk_seq, first = first, max(first, self.mark + 1)
        now_ms = time.time_ns() // 1_000_000
        self._replace_by_loss(chunk_seq, first, last, reason, now_ms)
        return Loss(first, last, reason, now_ms)

    def _replace_by_loss(self, chunk_seq: int, first: int, last: int, reason: str, now_ms: int) -> None:
        with self._transaction():
            self._db.execute("DELETE FROM chunks WHERE first_seq = ?", (chunk_seq,))
            grown = self._db.execute(
                "UPDATE losses SET last_seq = ? WHERE last_seq = ? AND reason = ?", (last, first - 1, reason)
            )
            if grown.rowcount == 0:
                self._db.execute("INSERT INTO losses VALUES (?, ?, ?, ?)", (first, last, reason, now_ms))


def open_spool(config: SpoolConfig, gateway: str, series_max: int = 1_000_000) -> Spool:
    """Open or create a spool. One that SQLite cannot read is moved aside and kept, and a new epoch begins.

    Raises FieldlineError when another agent owns it, when it belongs to another gateway, or when the
    directory cannot be used.
    """
    try:
        return Spool(config, gateway, series_max)
    except SpoolCorruptError as error:
        quarantine.move_aside(config.path, error)
        return Spool(config, gateway, series_max)
    except OSError as error:
        raise FieldlineError(f"cannot use spool.path {config.path}: {error.strerror}") from error

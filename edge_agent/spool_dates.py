"""Undated chunks in the spool's database: when their boots began, and giving them their times (edge_agent.boot).

  boots    boot (16 bytes) -> when it began, the last BOOTS_MAX; what is known stays known

All of it works on the spool's connection; what writes is called in a transaction.
"""

import contextlib
import sqlite3
import zlib
from collections.abc import Iterator

from edge_agent import chunk
from edge_agent.boot import Began, Boot, Run, beginnings, date, last_arrival_ms
from edge_agent.plausibility import CLOCK_SET_MS_MIN

BOOTS_MAX = 10_000
DATED_CHUNKS_MAX, DATED_BYTES_MAX = 100, 4 * 1024 * 1024
"""In one transaction, unless one chunk is larger: about as much as a batch has."""


def known(db: sqlite3.Connection) -> dict[bytes, Began]:
    """When boots began."""
    rows = db.execute("SELECT boot, began_at, is_estimate FROM boots")
    return {boot: Began(at_ms, bool(is_estimate)) for boot, at_ms, is_estimate in rows}


def write(db: sqlite3.Connection, boot: bytes, began: Began) -> None:
    """Remember when a boot began, unless that is known."""
    added = db.execute("INSERT OR IGNORE INTO boots (boot, began_at, is_estimate) VALUES (?, ?, ?)", (boot, *began))
    if added.rowcount:
        db.execute("DELETE FROM boots WHERE id <= (SELECT max(id) FROM boots) - ?", (BOOTS_MAX,))


def began_of(db: sqlite3.Connection, first_seq: int, present: Boot | None) -> tuple[bytes, Began] | None:
    """The boot that took the undated chunk at first_seq, and when it began; None while nobody knows."""
    ((_, _, uptime),) = _undated(db, first_seq, chunks_max=1)
    began = known(db)
    if uptime.boot not in began and present is not None:
        if not present.waits:
            began[uptime.boot] = Began(uptime.zero_ms, is_estimate=False)
        elif (present_ms := present.began()) is not None:
            began.setdefault(present.id, Began(present_ms, is_estimate=False))
            began |= beginnings(*_runs(db, first_seq, present_ms), began)
    return (uptime.boot, began[uptime.boot]) if uptime.boot in began else None


def date_from(db: sqlite3.Connection, epoch: str, first_seq: int, boot: bytes, began: Began) -> None:
    """Give the undated chunk at first_seq, and what follows of its boot up to the limits, their times."""
    write(db, boot, began)
    firsts = []
    for first, _, uptime in _undated(db, first_seq, DATED_CHUNKS_MAX):
        if uptime.boot != boot:
            break
        firsts.append((first, uptime))
    size = 0
    for first, uptime in firsts:
        crc, body = db.execute("SELECT crc, body FROM chunks WHERE first_seq = ?", (first,)).fetchone()
        size += len(body)
        if chunk.stamp(body, crc) is None or (size > DATED_BYTES_MAX and size > len(body)):
            return  # what is damaged is for the spool, when it comes there
        columns = chunk.unpack(body)
        date(columns, uptime, began)
        body = chunk.pack(epoch, first, columns)
        db.execute(
            "UPDATE chunks SET received_at = ?, crc = ?, body = ? WHERE first_seq = ?",
            (min(columns.received_at), zlib.crc32(body), body, first),
        )


def last_boot(db: sqlite3.Connection) -> bytes | None:
    """The boot that took the last chunk, if that is undated."""
    row = db.execute(
        "SELECT substr(body, 1, ?) FROM chunks ORDER BY first_seq DESC LIMIT 1", (chunk.HEAD_BYTES,)
    ).fetchone()
    uptime = chunk.uptime(row[0]) if row else None
    return uptime.boot if uptime else None


def _undated(db: sqlite3.Connection, seq: int, chunks_max: int = -1) -> Iterator[tuple[int, int, chunk.Uptime]]:
    """(first_seq, received_at, uptime) of the undated chunks from seq on, up to one that has a date."""
    heads = db.execute(
        "SELECT first_seq, received_at, substr(body, 1, ?) FROM chunks WHERE first_seq >= ? ORDER BY first_seq LIMIT ?",
        (chunk.HEAD_BYTES, seq, chunks_max),
    )
    with contextlib.closing(heads):
        for first, received_at, head in heads:
            if (uptime := chunk.uptime(head)) is None:
                return
            yield first, received_at, uptime


def _runs(db: sqlite3.Connection, first_seq: int, present_ms: int) -> tuple[list[Run], int]:
    """The undated chunks from first_seq on by boot, and when the last of those boots had ended."""
    lasts: list[tuple[int, int, chunk.Uptime]] = []
    for last in _undated(db, first_seq):
        if lasts and lasts[-1][2].boot == last[2].boot:
            lasts.pop()
        lasts.append(last)
    runs = []
    for first, received_at, uptime in lasts:
        crc, body = db.execute("SELECT crc, body FROM chunks WHERE first_seq = ?", (first,)).fetchone()
        is_whole = chunk.stamp(body, crc) is not None
        runs.append(Run(uptime, last_arrival_ms(chunk.unpack(body)) if is_whole else received_at))
    dated = db.execute(
        "SELECT received_at FROM chunks WHERE first_seq > ? AND received_at >= ? ORDER BY first_seq LIMIT 1",
        (lasts[-1][0], CLOCK_SET_MS_MIN),
    ).fetchone()
    return runs, min(dated[0], present_ms) if dated else present_ms

"""`fieldline edge spool --verify` and `--export`: every record looked at, or copied, while the agent may run.

Both read one snapshot of the database; the agent's commits go on meanwhile (its log grows until they are done).
"""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from edge_agent import chunk
from edge_agent.spool_copy import SpoolCopy
from edge_agent.spool_file import Status, opened_to_read, status_of
from telemetry.errors import FieldlineError

FINDINGS_MAX = 20


def verify(path: Path) -> tuple[Status | None, list[str]]:
    """What the spool holds, and a sentence per damage: in SQLite's pages, in a chunk, between chunks.

    Status is None for a database that cannot be read at all. Raises FieldlineError when there is none.
    """
    findings: list[str] = []
    status = None
    try:
        with opened_to_read(path) as db:
            db.execute("BEGIN")
            findings += [
                f"SQLite: {line}" for (line,) in db.execute(f"PRAGMA quick_check({FINDINGS_MAX})") if line != "ok"
            ]
            (epoch, mark) = db.execute("SELECT epoch, mark FROM meta").fetchone() or ("", 0)
            findings += _holes(db, epoch, mark)
            db.execute("ROLLBACK")
            status = status_of(db)
    except FieldlineError as error:
        if not (path / "spool.db").exists():
            raise
        findings.append(str(error))
    return status, findings


def _holes(db: sqlite3.Connection, epoch: str, mark: int) -> Iterator[str]:
    """Chunks that are not what was written, and seqs that are in no chunk and no loss."""
    expected = mark + 1
    rows = db.execute(
        "SELECT first_seq, first_seq + records - 1, crc, body FROM chunks UNION ALL "
        "SELECT first_seq, last_seq, NULL, NULL FROM losses ORDER BY 1"
    )
    for first, last, crc, body in rows:
        if body is not None and chunk.stamp(body, crc) != (epoch, first, last - first + 1):
            yield f"seqs {first} to {last}: the chunk is damaged (checksum); the agent will declare it lost"
        if first > expected:
            yield f"seqs {expected} to {first - 1} are neither there nor declared lost"
        expected = max(expected, last + 1)


def export(path: Path, file: Path) -> str:
    """Copy the spool into a new file, for `fieldline ingest import`; a sentence about what it holds, read back.

    Raises FieldlineError.
    """
    if file.exists():
        raise FieldlineError(f"{file} exists already: give --export another name")
    if not file.absolute().parent.is_dir():
        raise FieldlineError(f"cannot write {file}: there is no directory {file.absolute().parent}")
    part = file.with_name(f"{file.name}.part")
    part.unlink(missing_ok=True)
    try:
        with opened_to_read(path) as db:
            db.execute("VACUUM INTO ?", (str(part),))
        with part.open("rb") as written:
            os.fsync(written.fileno())
        part.rename(file)
    except OSError as error:
        raise FieldlineError(f"cannot write {file}: {error.strerror}") from error
    finally:
        part.unlink(missing_ok=True)
    with closing(SpoolCopy(file)) as copy:
        waiting = copy.next_seq - 1 - copy.mark
        return (
            f"{file}: {copy.readable} records behind seq {copy.mark} of gateway {copy.gateway}, epoch {copy.epoch}"
            + (f", and {waiting - copy.readable} declared losses" if waiting > copy.readable else "")
        )

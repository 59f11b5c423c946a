"""The spool's files: schema, opening, ownership, and what SQLite's errors mean.

spool.db (and -wal, -shm)   the database; see edge_agent.spool
lock                        held by the one agent that owns the spool
oscore-numbers              stays when the database is moved aside (edge_agent.collect.coap_numbers)
damaged-*.chunk             bodies whose checksum failed, as they were
corrupt-*/                  databases that SQLite could not read, as they were (edge_agent.quarantine)
"""

import contextlib
import fcntl
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import quote

from telemetry.errors import FieldlineError, SpoolCorruptError

FORMATS = 1, 2, 3, 4
"""Those that are read; what is written is the last. 1 had no deflated chunks, 2 no undated ones, 3 no tags and no fine
times."""
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (id INTEGER PRIMARY KEY, gateway TEXT, epoch TEXT, mark INTEGER);
CREATE TABLE IF NOT EXISTS series (
    id INTEGER PRIMARY KEY, device TEXT, metric TEXT, unit TEXT, tags TEXT NOT NULL DEFAULT '');
CREATE TABLE IF NOT EXISTS chunks (
    first_seq INTEGER PRIMARY KEY, records INTEGER NOT NULL, received_at INTEGER NOT NULL,
    crc INTEGER NOT NULL, body BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS losses (
    first_seq INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL, reason TEXT NOT NULL,
    declared_at INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS journal (
    id INTEGER PRIMARY KEY, last_seq INTEGER NOT NULL, epoch TEXT NOT NULL, keys BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS births (id INTEGER PRIMARY KEY, topic TEXT UNIQUE NOT NULL, payload BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS thinned (id INTEGER PRIMARY KEY, readings INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS windows (id INTEGER PRIMARY KEY, packed BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS boots (
    id INTEGER PRIMARY KEY, boot BLOB UNIQUE NOT NULL, began_at INTEGER NOT NULL, is_estimate INTEGER NOT NULL);
PRAGMA user_version = 4;
"""
"""edge_agent.spool_copy knows the tables by the types of their columns: no two may have the same."""


@dataclass(frozen=True, slots=True)
class Status:
    """What a spool holds. Times in ms since 1970 UTC, 0 when nothing is waiting.

    thinned: how many readings were left out on purpose since it was made.
    """

    gateway: str
    epoch: str
    mark: int
    last_seq: int
    records: int
    bytes: int
    oldest_at: int
    lost: int
    thinned: int = 0


@contextlib.contextmanager
def told() -> Iterator[None]:
    """SQLite's errors as ours: SpoolCorruptError for a damaged file, else a FieldlineError; both may pass again.

    SQLite tells a damaged file by sqlite3.DatabaseError itself; its subclasses mean something else.
    """
    try:
        yield
    except sqlite3.DatabaseError as error:
        if type(error) is sqlite3.DatabaseError:
            raise SpoolCorruptError(str(error)) from error
        raise FieldlineError(f"the spool cannot be used now: {error}") from error


def connect(file: Path, owned: IO[bytes]) -> sqlite3.Connection:
    """Open the database; gives the lock up if that fails. Raises SpoolCorruptError, FieldlineError."""
    db = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=10)
    try:
        with told():
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA journal_size_limit=16777216")
            db.execute("PRAGMA cache_size=-512")  # KiB; a queue re-reads little
    except BaseException:
        db.close()
        owned.close()
        raise
    return db


def prepare(db: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new database. Raises FieldlineError for one of another format."""
    (version,) = db.execute("PRAGMA user_version").fetchone()
    (tables,) = db.execute("SELECT count() FROM sqlite_schema").fetchone()
    if version not in FORMATS and tables:
        raise FieldlineError(
            f"The spool in {path} has format {version}, this version of Fieldline reads {FORMATS[0]} to {FORMATS[-1]}. "
            "Let the version that made it deliver what it holds, or give the agent another spool.path."
        )
    columns = [name for _, name, *_ in db.execute("PRAGMA table_info(series)")]
    if columns and "tags" not in columns:  # of an older format; its rows stay as they are
        db.execute("ALTER TABLE series ADD COLUMN tags TEXT NOT NULL DEFAULT ''")
    db.executescript(SCHEMA)


def lock(path: Path) -> IO[bytes]:
    """Become the owner of the spool in a directory. Raises FieldlineError when another agent is."""
    file = (path / "lock").open("ab")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise FieldlineError(f"another agent is already running on the spool in {path}") from None
    return file


def read_status(path: Path) -> Status:
    """The status of a spool that an agent may have open. Raises FieldlineError when there is none."""
    with opened_to_read(path) as db:
        return status_of(db)


@contextlib.contextmanager
def opened_to_read(path: Path) -> Iterator[sqlite3.Connection]:
    """The database of a spool that an agent may have open; what goes wrong with it is a FieldlineError."""
    file = path / "spool.db"
    if not file.exists():
        raise FieldlineError(f"there is no spool in {path}: the agent has not run yet with this config")
    try:
        with contextlib.closing(sqlite3.connect(f"file:{quote(str(file))}?mode=ro", uri=True)) as db:
            yield db
    except _UnfinishedError:
        raise FieldlineError(f"the spool in {path} is being made") from None
    except sqlite3.Error as error:
        raise FieldlineError(f"cannot read the spool in {path}: {error}") from error


class _UnfinishedError(Exception):
    """The agent has made the tables, and not their content yet."""


def status_of(db: sqlite3.Connection) -> Status:
    """The status of an open database, by index lookups only."""
    db.execute("BEGIN")  # one snapshot for all
    try:
        meta = db.execute("SELECT gateway, epoch, mark FROM meta").fetchone()
        if meta is None:
            raise _UnfinishedError
        gateway, epoch, mark = meta
        last_seq = last_seq_of(db, mark)
        oldest = db.execute("SELECT received_at FROM chunks ORDER BY first_seq LIMIT 1").fetchone()
        (lost,) = db.execute(
            "SELECT coalesce(sum(last_seq - max(first_seq, ? + 1) + 1), 0) FROM losses", (mark,)
        ).fetchone()
        (counts,) = db.execute("SELECT count() FROM sqlite_schema WHERE name = 'thinned'").fetchone()
        thinned = db.execute("SELECT readings FROM thinned").fetchone() if counts else None  # an older agent's has none
        pages, free, size = (
            db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
    finally:
        db.execute("ROLLBACK")
    return Status(
        gateway=gateway,
        epoch=epoch,
        mark=mark,
        last_seq=last_seq,
        records=last_seq - mark - lost,
        bytes=(pages - free) * size,
        oldest_at=oldest[0] if oldest else 0,
        lost=lost,
        thinned=thinned[0] if thinned else 0,
    )


def last_seq_of(db: sqlite3.Connection, mark: int) -> int:
    """The last seq that the spool gave: of a chunk, of a loss, or the mark."""
    ends = (
        "SELECT first_seq + records - 1 FROM chunks ORDER BY first_seq DESC LIMIT 1",
        "SELECT last_seq FROM losses ORDER BY first_seq DESC LIMIT 1",
    )
    return max([mark, *(int(last) for end in ends for (last,) in db.execute(end))])

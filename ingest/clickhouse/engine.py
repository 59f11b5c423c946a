"""The embedded ClickHouse: chDB in this process, the one owner of a data directory.

- Every statement runs on a connection of its own (opening one costs 0.1 ms here), so that settings, the
  current database and a cancelled query of one client never touch another's. Statements run concurrently.
- `query_id` is kept as the setting `log_comment`, because chDB gives its queries ids of its own. It is what
  `kill` and `KILL QUERY WHERE query_id = …` go by.
- Inserts are synchronous by default (`async_insert=0`): what was answered is in the table.
- All methods block; call them from threads, all of one statement's from one thread. The process must never
  fork after `Engine.open`.
- On a full disk the engine answers CREATE and ALTER with success, having replaced the table's definition by an empty
  file. So `check_room` is to be asked before; and `open` names such a file.

Limits: the result of a statement that is not streamed, `result_bytes_max`; the engine's memory,
`memory_bytes_max`; the disk's free space for definitions, `FREE_BYTES_MIN`.
What the engine lacks against a server: users, replication, query_log.
Whoever may query may also read and write files and URLs as this process (file(), url()).
"""

import fcntl
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from telemetry.errors import FieldlineError

FREE_BYTES_MIN = 32 * 1024**2
# clickhouse-local reads "1" as SELECT 1, a server does not; and an insert that was answered is in its table
_AS_A_SERVER = {"implicit_select": "0", "async_insert": "0"}
_CODE = re.compile(r"Code: (\d+)\. DB::Exception: ")
_TWICE = re.compile(r"^(Code: \d+\. DB::Exception: )(?=\1)")
_IN_FILE = re.compile(r" ?\(in file/uri [^)]*\):?|: data for INSERT was parsed from file|: While executing File\b")
_VERSION_NOTE = re.compile(r" \(version [\d.]+\)\. \(\w+\)\s*$")


class EngineError(Exception):
    """The engine's refusal: ClickHouse's error code, and its text from `Code: ` on."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        found = _CODE.match(text)
        self.code = int(found.group(1)) if found else 1001
        self.text = text if found else f"Code: 1001. DB::Exception: {text} (STD_EXCEPTION)"


@dataclass(frozen=True, slots=True)
class Job:
    """One statement with all that its request says about it. `preamble`: statements to run before it; `tables`: those
    that make its external tables, under its settings.
    """

    query_id: str
    text: bytes
    format: str
    database: str | None = None
    settings: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)
    preamble: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()
    readonly: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A statement's whole result."""

    body: bytes
    read_rows: int
    read_bytes: int
    written_rows: int
    written_bytes: int
    result_rows: int


class Engine:
    """Owns `path` from `open` to `close`."""

    def __init__(self, path: Path, memory_bytes_max: int | None = None, result_bytes_max: int = 1024**3) -> None:
        self.path = path.absolute()
        self.memory_bytes_max = memory_bytes_max
        self.result_bytes_max = result_bytes_max
        self.version = ""
        self.timezone = ""
        self._connect: Any = None
        self._errors: tuple[type[Exception], ...] = (RuntimeError,)
        self._anchor: Any = None  # chDB shuts its engine down with the last connection
        self._lock: IO[str] | None = None

    def open(self) -> None:
        """Take the directory and start the engine. Raises FieldlineError with a sentence."""
        if re.search(r"['\"\\*?{}|\n]", str(self.path)):
            raise FieldlineError(f"The data path must not contain quotes or any of \\ * ? {{ }} |, got {self.path}.")
        self._lock = _lock(self.path)
        from chdb.state import sqlitelike  # noqa: PLC0415 -- it loads 500 MB: only once the directory is ours

        connect = self._connect = sqlitelike.connect
        self._errors = (RuntimeError, sqlitelike.ChdbError)
        limit = f"?max_server_memory_usage={self.memory_bytes_max}" if self.memory_bytes_max else ""
        try:
            self._anchor = connect(f"{self.path}{limit}")
            found = self._anchor.query("SELECT version(), timezone()", "TabSeparated").bytes()
        except self._errors as error:
            self.close()
            raise FieldlineError(
                f"ClickHouse cannot open the data in {self.path}: {_lost_definition(self.path) or _text(error)}"
            ) from error
        self.version, self.timezone = found.decode().rstrip("\n").split("\t")

    def close(self) -> None:
        """Stop the engine and release the directory. No statement may be running."""
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def check_room(self, free_bytes_min: int = FREE_BYTES_MIN) -> None:
        """Raises EngineError when the disk is too full for a definition to be written safely."""
        free = shutil.disk_usage(self.path).free
        if free < free_bytes_min:
            raise EngineError(
                f"Code: 243. DB::Exception: {free} bytes are free on the disk of {self.path}, {free_bytes_min} are"
                " needed to change a definition. Drop a partition or a table, or free space otherwise."
                " (NOT_ENOUGH_SPACE)"
            )

    def run(self, job: Job) -> Answer:
        """Run a statement and return its whole result. Raises EngineError."""
        with self._connection(job, {"max_result_bytes": str(self.result_bytes_max)}) as connection:
            result = connection.query(job.text, job.format, params=_params(job))
            return Answer(
                body=result.bytes(),
                read_rows=result.storage_rows_read(),
                read_bytes=result.storage_bytes_read(),
                written_rows=result.rows_written(),
                written_bytes=result.bytes_written(),
                result_rows=0 if result.rows_written() else result.rows_read(),
            )

    def stream(self, job: Job) -> Iterator[bytes]:
        """Yield a SELECT's result block by block; each in `job.format` on its own. Raises EngineError.

        Closing the iterator cancels the query.
        """
        with self._connection(job, {}) as connection:
            result = connection.send_query(job.text, job.format, params=_params(job))
            try:
                while (block := result.fetch()) is not None:
                    yield block.bytes()
            finally:
                result.close()

    def kill(self, query_id: str | None) -> None:
        """Cancel a client's statement; all of them for None. Returns before they have stopped."""
        which = f"= '{_quoted(query_id)}'" if query_id is not None else "!= ''"
        with self._connection(Job("", b"", "Null"), {}) as connection:
            connection.query(f"KILL QUERY WHERE Settings['log_comment'] {which}", "Null")

    @contextmanager
    def _connection(self, job: Job, defaults: Mapping[str, str]) -> Iterator[Any]:
        connection = None
        try:
            connection = self._connect(str(self.path))
            connection.query(_preparation(job, defaults), "Null")
            yield connection
        except UnicodeDecodeError as error:  # chDB's binding fails on an error text that quotes binary data
            raise EngineError(_tidy(bytes(error.object).decode(errors="replace"))) from error
        except self._errors as error:
            raise EngineError(_tidy(_text(error))) from error
        finally:
            if connection is not None:
                connection.close()


def _preparation(job: Job, defaults: Mapping[str, str]) -> str:
    settings = {
        **_AS_A_SERVER,
        **defaults,
        **job.settings,
        "log_comment": job.query_id,
    }
    if job.readonly and settings.get("readonly", "0") == "0":
        settings["readonly"] = "2"
    readonly = settings.pop("readonly", None)
    statements = list(job.preamble)
    if job.database:
        name = job.database.replace("\\", "\\\\").replace("`", "\\`")
        statements.append(f"USE `{name}`")
    statements.append("SET " + ", ".join(f"{name} = '{_quoted(value)}'" for name, value in settings.items()))
    statements += job.tables
    if readonly is not None:  # last: after it nothing may be made, and no setting changed
        statements.append(f"SET readonly = '{_quoted(readonly)}'")
    return ";\n".join(statements)


def _params(job: Job) -> dict[str, str]:
    return {name: value.encode(errors="replace").decode() for name, value in job.params.items()}


def _quoted(value: str) -> str:
    return value.encode(errors="replace").decode().replace("\\", "\\\\").replace("'", "\\'")


def _text(error: BaseException) -> str:
    return str(error).removeprefix("Streaming query failed: ")


def _lost_definition(path: Path) -> str:
    """What a full disk has left of a CREATE or ALTER, as a sentence; empty if there is nothing like it."""
    empty = next((file for file in path.glob("store/*/*/*.sql") if file.stat().st_size == 0), None)
    return f"the definition {empty} is empty, written when the disk was full. Restore it from a backup" if empty else ""


def _tidy(text: str) -> str:
    """One `Code: …` instead of two, and no word of the file in which the data waited."""
    text = _VERSION_NOTE.sub("", _TWICE.sub("", text))
    return _IN_FILE.sub("", text).strip()


def _lock(path: Path) -> IO[str]:
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = (path / "owner").open("a+")
    except OSError as error:
        raise FieldlineError(
            f"Cannot write to the data path {path}: {error.strerror}. Choose another with --path."
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.seek(0)
        owner = lock.read().strip() or "another process"
        lock.close()
        raise FieldlineError(
            f"{path} is in use by {owner}. One server owns a data path: stop that one, or choose another --path."
        ) from error
    lock.truncate(0)
    lock.write(f"process {os.getpid()}")
    lock.flush()
    return lock

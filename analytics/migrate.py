"""Brings the database `fieldline` to the schema of this version, one numbered file after the other.

A migration is `schema/NNNN_name.sql`: statements, each ended by a `;` at the end of a line; lines that begin
with `--` are comments. Migrations only go forward, and a file never changes once it was applied: its SHA-256
is kept in `fieldline.schema_migrations` and compared.

Every statement must be idempotent (IF NOT EXISTS, IF EXISTS) and name its objects in full (`fieldline.x`).
That alone makes it safe to be killed anywhere, and to run twice at the same time: what is not recorded as
applied is done again. ClickHouse has no transactions over DDL, and none are needed.
"""

import hashlib
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, TextIO

from analytics.queries import views
from ingest.clickhouse.client import DATABASE, ClickHouseError, Client, connect, server_text
from telemetry.errors import FieldlineError

_TABLE = f"{DATABASE}.schema_migrations"
_SET_UP = (
    f"CREATE DATABASE IF NOT EXISTS {DATABASE}",
    f"""CREATE TABLE IF NOT EXISTS {_TABLE}
    (
        name String COMMENT 'The file, without .sql',
        checksum String COMMENT 'SHA-256 of its text, in hex',
        applied_at DateTime64(3, 'UTC') COMMENT 'When it was applied'
    )
    ENGINE = ReplacingMergeTree(applied_at) ORDER BY (name, checksum)
    COMMENT 'Which files of analytics/schema have been applied'""",
)
_FILE = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")

NEEDED = (
    ("setting", "system.settings", ("async_insert", "insert_deduplication_token", "max_insert_threads")),
    (
        "table setting",
        "system.merge_tree_settings",
        ("fsync_after_insert", "fsync_part_directory", "non_replicated_deduplication_window"),
    ),
    (
        "function",
        "system.functions",
        ("arrayFlatten", "bitmapSubsetInRange", "groupBitmap", "toUnixTimestamp64Milli", "bitShiftLeft"),
    ),
)
"""What the schema and the inserts rest on, and where a server lists it."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `checksum` is the SHA-256 of its text in hex."""

    name: str
    statements: tuple[str, ...]
    checksum: str


def migrate(client: Client, migrations: Sequence[Migration] | None = None) -> list[str]:
    """Apply what is not applied yet; returns the names of what was, in order. Nothing to do: an empty list.

    The client may be connected to any database. Raises FieldlineError when the server is too old, when an
    applied file was changed, when the database is of a newer version, and when a statement fails.
    """
    wanted = load() if migrations is None else migrations
    _check_features(client)
    for statement in _SET_UP:
        _execute(client, statement, "the table of migrations")
    applied = _applied(client)
    _check_history(wanted, applied)
    done = []
    for migration in wanted:
        if migration.name not in applied:
            for number, statement in enumerate(migration.statements, 1):
                _execute(client, statement, f"statement {number} of migration {migration.name}")
            _record(client, migration)
            done.append(migration.name)
    return done


def run(url: str | None = None, *, out: TextIO | None = None) -> int:
    """`fieldline analytics migrate`: migrate, make the views of the named queries, and say what was done.

    Raises FieldlineError.
    """
    client = connect(url, database="default")
    try:
        names = migrate(client)
        _refresh_views(client)
    finally:
        client.close()
    lines = [f"applied {name}" for name in names] or [f"The database {DATABASE} is up to date."]
    print("\n".join(lines), file=out or sys.stdout)
    return 0


def load() -> list[Migration]:
    """The migrations that came with this version, in order."""
    texts = {
        entry.name: entry.read_text(encoding="utf-8")
        for entry in files("analytics").joinpath("schema").iterdir()
        if entry.name.endswith(".sql")
    }
    return [parse(name, texts[name]) for name in sorted(texts)]


def parse(filename: str, text: str) -> Migration:
    """A file's text as a migration. The kind of line ends makes no difference."""
    assert _FILE.fullmatch(filename), f"{filename}: a migration is named NNNN_name.sql"
    text = text.replace("\r\n", "\n")
    code = "\n".join(line for line in text.split("\n") if not line.lstrip().startswith("--"))
    statements = tuple(part.strip() for part in re.split(r";[ \t]*(?:\n|\Z)", code) if part.strip())
    return Migration(filename.removesuffix(".sql"), statements, hashlib.sha256(text.encode()).hexdigest())


def _check_features(client: Client) -> None:
    for kind, table, names in NEEDED:
        listed = ", ".join(f"'{name}'" for name in names)
        there = {row[0] for row in _rows(client, f"SELECT name FROM {table} WHERE name IN ({listed})")}
        missing = [name for name in names if name not in there]
        if missing:
            raise FieldlineError(
                f"ClickHouse {client.server_version} is too old for Fieldline: it lacks the {kind}"
                f" {', '.join(missing)}. Upgrade it to the current LTS version or newer."
            )


def _check_history(wanted: Sequence[Migration], applied: dict[str, set[str]]) -> None:
    checksums = {migration.name: {migration.checksum} for migration in wanted}
    unknown = sorted(applied.keys() - checksums.keys())
    if unknown:
        raise FieldlineError(
            f"The database {DATABASE} was migrated by a newer Fieldline ({unknown[-1]} is unknown here)."
            " Upgrade this one."
        )
    for name, found in applied.items():
        if found != checksums[name]:
            raise FieldlineError(
                f"The migration {name} was changed after it had been applied to this database."
                " Restore the file, and put the change into a new migration."
            )


def _applied(client: Client) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for name, checksum in _rows(client, f"SELECT DISTINCT name, checksum FROM {_TABLE}"):
        found.setdefault(name, set()).add(checksum)
    return found


def _record(client: Client, migration: Migration) -> None:
    _execute(
        client,
        f"INSERT INTO {_TABLE} (name, checksum, applied_at)"
        f" SELECT '{migration.name}', '{migration.checksum}', now64(3, 'UTC')",
        f"the record of migration {migration.name}",
    )


def _refresh_views(client: Client) -> None:
    try:
        views.refresh(client)
    except ClickHouseError as error:
        raise FieldlineError(
            f"ClickHouse {client.server_version} refused a view of a named query: {server_text(error)}"
        ) from error


def _execute(client: Client, statement: str, what: str) -> None:
    try:
        client.command(statement, use_database=False)
    except ClickHouseError as error:
        raise FieldlineError(
            f"ClickHouse {client.server_version} refused {what}: {server_text(error)}"
            " What came before it is in place; remove the cause and run this again."
        ) from error


def _rows(client: Client, query: str) -> list[tuple[Any, ...]]:
    try:
        return list(client.query(query).result_rows)
    except ClickHouseError as error:
        raise FieldlineError(f"ClickHouse did not answer what it supports: {server_text(error)}") from error

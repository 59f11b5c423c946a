"""Brings the database `fieldline` to the schema of this version, one numbered file after the other.

A migration is `schema/NNNN_name.sql`: statements, each ended by a `;` at the end of a line; lines that begin
with `--` are comments. Migrations only go forward, and a file never changes once it was applied: its SHA-256
is kept in `fieldline.schema_migrations` and compared.

Every statement must be idempotent (IF NOT EXISTS, IF EXISTS) and name its objects in full (`fieldline.x`).
That alone makes it safe to be killed anywhere, and to run twice at the same time: what is not recorded as
applied is done again. ClickHouse has no transactions over DDL, and none are needed.

The same files serve a cluster: analytics/cluster.py turns each statement into its cluster form. A database is of one
form for good, and a run with the other is refused. What may change in the schema, and how, is in docs/schema.md.
"""

import hashlib
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from typing import Any, TextIO

from analytics.cluster import NOT_PROVEN, WORKER_SETTINGS, Cluster
from analytics.queries import load as load_query
from analytics.queries import names as query_names
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

NEEDED: tuple[tuple[str, str, dict[str, str]], ...] = (
    (
        "setting",
        "system.settings",
        {"async_insert": "21.11", "insert_deduplication_token": "22.2", "max_insert_threads": "19.16"},
    ),
    (
        "table setting",
        "system.merge_tree_settings",
        {
            "assign_part_uuids": "20.12",
            "fsync_after_insert": "20.10",
            "fsync_part_directory": "20.10",
            "non_replicated_deduplication_window": "21.4",
        },
    ),
    (
        "function",
        "system.functions",
        {
            "arrayFlatten": "20.1",
            "bitmapSubsetInRange": "20.1",
            "groupBitmap": "20.1",
            "toUnixTimestamp64Milli": "20.5",
            "bitShiftLeft": "1.1",
            "toIntervalMillisecond": "22.6",
        },
    ),
)
"""What the schema and the inserts rest on, where a server lists it, and the version from which on it is there."""

PARAMETERIZED_VIEWS = (23, 1)
"""Nothing lists them, so the version counts."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `checksum` is the SHA-256 of its text in hex."""

    name: str
    statements: tuple[str, ...]
    checksum: str


def migrate(
    client: Client, migrations: Sequence[Migration] | None = None, *, cluster: Cluster | None = None
) -> list[str]:
    """Apply what is not applied yet; returns the names of what was, in order. Nothing to do: an empty list.

    The client may be connected to any database. Raises FieldlineError when the server is too old, when an
    applied file was changed, when the database is of a newer version or of the other form, and when a statement fails.
    """
    set_up, wanted = formed(load() if migrations is None else migrations, cluster)
    _check_features(client)
    _check_form(client, cluster)
    for statement in set_up:
        _execute(client, statement, "the table of migrations")
    applied = _applied(client)
    _check_history(wanted, applied)
    done = []
    for migration in wanted:
        if migration.name not in applied:
            for number, statement in enumerate(migration.statements, 1):
                _execute(client, statement, f"statement {number} of migration {migration.name}")
            _execute(client, _record(migration), f"the record of migration {migration.name}")
            done.append(migration.name)
    return done


def formed(migrations: Sequence[Migration], cluster: Cluster | None) -> tuple[Sequence[str], Sequence[Migration]]:
    """What comes before the migrations, and these, for one server or for a cluster. Raises FieldlineError."""
    if cluster is None:
        return _SET_UP, migrations
    set_up = [form for statement in _SET_UP for form in cluster.forms(statement)]
    made = []
    for migration in migrations:
        try:
            forms = [form for statement in migration.statements for form in cluster.forms(statement)]
        except FieldlineError as error:
            raise FieldlineError(f"Migration {migration.name}: {error}") from error
        made.append(replace(migration, statements=tuple(forms)))
    return set_up, made


def run(url: str | None = None, *, cluster: str | None = None, out: TextIO | None = None) -> int:
    """`fieldline analytics migrate`: migrate, make the views of the named queries, and say what was done.

    Raises FieldlineError.
    """
    form = None if cluster is None else Cluster(cluster)
    client = connect(url, database="default")
    try:
        names = migrate(client, cluster=form)
        missing = [*_refresh_views(client, form), *_missing(client)]
        if form is not None:
            missing += [NOT_PROVEN, *_other_settings(client)]
    finally:
        client.close()
    lines = [f"applied {name}" for name in names] or [f"The database {DATABASE} is up to date."]
    print("\n".join(lines + missing), file=out or sys.stdout)
    return 0


def print_statements(cluster: str | None = None, *, out: TextIO | None = None) -> int:
    """`fieldline analytics migrate --print`: every statement, without a server, for whoever applies them by hand."""
    print("".join(f"{text}\n\n" for text in script(cluster)), end="", file=out or sys.stdout)
    return 0


def script(cluster: str | None = None) -> Iterator[str]:
    """Comments, and statements that each end in a `;`, from an empty server to the schema and views of this version."""
    form = None if cluster is None else Cluster(cluster)
    if form is not None:
        yield f"-- {NOT_PROVEN}"
        yield f"-- The user of the workers: ALTER USER … SETTINGS {_listed(WORKER_SETTINGS)}"
    set_up, migrations = formed(load(), form)
    yield from (f"{statement};" for statement in set_up)
    for migration in migrations:
        yield f"-- {migration.name}"
        yield from (f"{statement};" for statement in (*migration.statements, _record(migration)))
    yield "-- The views of the named queries"
    for name in query_names():
        made = views.definition(f"{views.PREFIX}{name}", load_query(name))
        yield from (f"{statement};" for statement in (form.forms(made) if form else (made,)))


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
    missing = []
    for kind, table, since in NEEDED:
        listed = ", ".join(f"'{name}'" for name in since)
        there = {row[0] for row in _rows(client, f"SELECT name FROM {table} WHERE name IN ({listed})")}
        missing += [f"the {kind} {name} (there since {since[name]})" for name in since if name not in there]
    if missing:
        raise FieldlineError(
            f"ClickHouse {client.server_version} is too old for Fieldline: it lacks {', '.join(missing)}."
            " Upgrade it to the current LTS version or newer."
        )


def _check_form(client: Client, cluster: Cluster | None) -> None:
    """One form does not become the other: CREATE … IF NOT EXISTS would leave what is there as it is."""
    query = f"SELECT engine FROM system.tables WHERE database = '{DATABASE}' AND name = 'schema_migrations'"
    is_cluster = [str(engine).startswith("Replicated") for (engine,) in _rows(client, query)]
    if is_cluster == [True] and cluster is None:
        raise FieldlineError(
            f"The database {DATABASE} is that of a cluster. Run `fieldline analytics migrate --cluster NAME`."
        )
    if is_cluster == [False] and cluster is not None:
        raise FieldlineError(
            f"The database {DATABASE} is that of a single server and stays one."
            " Begin with a new database and move the rows into it, as docs/schema.md says."
        )


def _missing(client: Client) -> list[str]:
    """What does not work on this server, but need not keep ingest from it; as sentences."""
    if "lightweight_deletes_sync" in client.server_settings:
        return []
    said = (
        f"ClickHouse {client.server_version} lacks the setting lightweight_deletes_sync (there since 24.4):"
        " `fieldline analytics backfill` and a second `fieldline dead-letters replay` will not work. All else does."
    )
    return [said]


def _other_settings(client: Client) -> list[str]:
    """Which of the settings that a worker needs on a cluster this user does not have; as a sentence."""
    there = {name: setting.value for name, setting in client.server_settings.items()}
    other = {name: value for name, value in WORKER_SETTINGS.items() if str(there.get(name)) != value}
    if not other:
        return []
    return [f"The user of the workers needs settings that this one lacks: ALTER USER … SETTINGS {_listed(other)}"]


def _listed(settings: dict[str, str]) -> str:
    return ", ".join(f"{name} = '{value}'" for name, value in settings.items())


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


def _record(migration: Migration) -> str:
    return (
        f"INSERT INTO {_TABLE} (name, checksum, applied_at)"
        f" SELECT '{migration.name}', '{migration.checksum}', now64(3, 'UTC')"
    )


def _refresh_views(client: Client, cluster: Cluster | None) -> list[str]:
    """Make the views of the named queries; what is missing of them as sentences."""
    version = str(client.server_version)
    try:
        views.refresh(client, cluster.forms if cluster else views.as_it_is)
    except ClickHouseError as error:
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < PARAMETERIZED_VIEWS:
            said = (
                f"ClickHouse {version} has no parameterized views (there since 23.1): there are no views"
                f" {views.PREFIX}… of the named queries. `fieldline query` and all else works."
            )
            return [said]
        raise FieldlineError(f"ClickHouse {version} refused a view of a named query: {server_text(error)}") from error
    return []


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

"""A migration's statements as a cluster takes them. Pure: text in, text out, no server.

Every name stays what it is on a single server; what is behind it is one of two:

- **sharded**: a table that is sorted by `device` first. `readings_local` is replicated within a shard, and `readings`
  is the `Distributed` table before it, which sends a row to the shard of `cityHash64(device)`. All rows of a device are
  on one shard, so a ReplacingMergeTree still replaces.
- **everywhere**: any other table. It has no shards: every server of the cluster is a replica of the same table, because
  its path in Keeper does not name the shard. What is written on one is on all, and is read without the network.

The paths say the names, not UUIDs: `CREATE … IF NOT EXISTS … ON CLUSTER` that is repeated after a server was away would
draw another UUID, and so make a table there that replicates nothing. By its name a table finds its replicas again.

What changes a table: a replicated table carries ALTER, TRUNCATE and DELETE to its replicas itself, and ON CLUSTER says
them once for each shard. So a table that is everywhere is told once, without ON CLUSTER; but settings belong to each
replica and are said on all of them. A Distributed table has no commands but for columns: it is made anew, in one step,
from what the local table then has.

Which is which follows from the statements before: `forms` is to be asked for all statements in order, also for those
that are applied already. A statement of a kind that is not known here is refused with a sentence, never passed on.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from ingest.clickhouse.client import DATABASE
from telemetry.errors import FieldlineError

SHARD_BY = "device"
LOCAL = "_local"
DEDUPLICATION_S = 7 * 24 * 3600
"""For how long a repeated insert is recognised; ClickHouse's default is an hour, and an outage may take longer."""

WORKER_SETTINGS = {
    "distributed_foreground_insert": "1",
    "insert_quorum": "auto",
    "insert_quorum_parallel": "0",
    "select_sequential_consistency": "1",
    "prefer_global_in_and_join": "1",
}
"""What the user of the workers, and of whoever reads the books, must have: rows are on most replicas when an insert
is answered, what is read has all of them, and a subquery is asked once, not by each shard of its own rows."""

NOT_PROVEN = (
    "What a receipt promises is not proven on a cluster: the cluster form was never run by several servers, and with"
    " more than one shard a worker that was succeeded may leave a late insert. docs/schema.md says what to check."
)

_NAME = re.compile(r"[A-Za-z0-9_.{}-]{1,100}")
_TOKEN = re.compile(r"'(?:[^'\\]|\\.|'')*'|`[^`]*`|--[^\n]*|/\*.*?\*/|\w+|\S", re.DOTALL)
_CREATE_TABLE = re.compile(rf"CREATE TABLE IF NOT EXISTS {DATABASE}\.(\w+)\s*(?=\()")
_VIEW = re.compile(
    rf"(?:CREATE VIEW IF NOT EXISTS|CREATE OR REPLACE VIEW|DROP VIEW IF EXISTS|CREATE DATABASE IF NOT EXISTS)"
    rf" {DATABASE}(?:\.\w+)?(?!\S)"
)
_CHANGE = re.compile(rf"(?P<verb>ALTER TABLE|TRUNCATE TABLE IF EXISTS|DELETE FROM) {DATABASE}\.(?P<table>\w+)(?!\S)")
_DROP = re.compile(rf"DROP TABLE IF EXISTS {DATABASE}\.(\w+)(?: SYNC)?\Z")
_INSERT = re.compile(rf"INSERT INTO {DATABASE}\.(\w+)(?!\S)")
_OF_A_REPLICA = re.compile(r"\A(?:MODIFY|RESET) SETTING\b")
_OF_A_COLUMN = re.compile(r"\A(?:ADD|DROP|MODIFY|COMMENT|RENAME|CLEAR) COLUMN\b")
_OF_ALL = re.compile(r"\A(?:ADD|DROP|MATERIALIZE|CLEAR) (?:INDEX|PROJECTION|CONSTRAINT)\b|\A(?:MODIFY|REMOVE) TTL\b")
_NEXT = re.compile(r"\s*[A-Z]{3,} [A-Z]")
"""Behind a comma the next command, not the next setting or expression of this one."""
_WINDOW = re.compile(r"\bnon_replicated_deduplication_window = (\d+)")
_CLAUSES = ("ENGINE", "PARTITION", "ORDER", "PRIMARY", "SAMPLE", "TTL", "SETTINGS", "COMMENT")


@dataclass(slots=True)
class Cluster:
    """The cluster `name` (or a macro, as `{cluster}`), and what the statements so far have made.

    sharded: of each sharded table the comment. everywhere: the names of the others.
    """

    name: str
    sharded: dict[str, str] = field(default_factory=dict)
    everywhere: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise FieldlineError(f"A cluster is named as in system.clusters, got {self.name!r}.")

    @property
    def on(self) -> str:
        return f" ON CLUSTER '{self.name}'"

    def forms(self, statement: str) -> tuple[str, ...]:
        """The statements that take this one's place. Raises FieldlineError when there are none."""
        if found := _CREATE_TABLE.match(statement):
            return self._create(found[1], statement)
        if found := _VIEW.match(statement):
            return (f"{found[0]}{self.on}{statement[found.end() :]}",)
        if found := _CHANGE.match(statement):
            return self._change(found["verb"], found["table"], statement[found.end() :], statement)
        if found := _DROP.match(statement):
            return self._drop(found[1], statement)
        if found := _INSERT.match(statement):
            self._known(found[1], statement)
            return (statement,)
        raise _refused(
            statement,
            "analytics/cluster.py does not say what it means there; it knows CREATE TABLE IF NOT EXISTS, CREATE VIEW"
            " IF NOT EXISTS, CREATE OR REPLACE VIEW, ALTER TABLE, DROP TABLE IF EXISTS, DROP VIEW IF EXISTS, TRUNCATE"
            " TABLE IF EXISTS, DELETE FROM and INSERT INTO, each with the name in full",
        )

    def _create(self, name: str, statement: str) -> tuple[str, ...]:
        if name.endswith(LOCAL):
            raise _refused(statement, f"names that end in {LOCAL} are those of the tables behind the sharded ones")
        clauses = _clauses(statement)
        engine = re.fullmatch(r"ENGINE = (\w*MergeTree)(?:\(([^()]*)\))?", clauses.get("ENGINE", ""))
        if engine is None or engine[1].startswith("Replicated"):
            raise _refused(statement, "its engine must be one of the MergeTree family, which has a replicated form")
        is_sharded = _first(clauses.get("ORDER", "")) == SHARD_BY
        path, replica = (
            (f"/clickhouse/tables/{{shard}}/{DATABASE}/{name}", "{replica}")
            if is_sharded
            else (f"/clickhouse/tables/everywhere/{DATABASE}/{name}", "{shard}-{replica}")
        )
        arguments = [f"'{path}'", f"'{replica}'", *([engine[2]] if engine[2] else [])]
        local = f"{name}{LOCAL}" if is_sharded else name
        made = statement.replace(engine[0], f"ENGINE = Replicated{engine[1]}({', '.join(arguments)})", 1)
        made = _replicated_window(made, clauses.get("SETTINGS", ""))
        made = _CREATE_TABLE.sub(f"CREATE TABLE IF NOT EXISTS {DATABASE}.{local}{self.on}\n", made, count=1)
        if not is_sharded:
            self.everywhere.add(name)
            return (made,)
        self.sharded[name] = clauses.get("COMMENT", "")
        return (made, self._front(name, "CREATE TABLE IF NOT EXISTS"))

    def _front(self, name: str, create: str) -> str:
        return (
            f"{create} {DATABASE}.{name}{self.on} AS {DATABASE}.{name}{LOCAL}\n"
            f"ENGINE = Distributed('{self.name}', '{DATABASE}', '{name}{LOCAL}', cityHash64({SHARD_BY}))\n"
            f"{self.sharded[name]}"
        ).rstrip()

    def _change(self, verb: str, name: str, rest: str, statement: str) -> tuple[str, ...]:
        is_sharded = self._known(name, statement)
        commands = list(_split(rest)) if verb == "ALTER TABLE" else []
        for command in commands:
            if not any(kind.match(command) for kind in (_OF_A_REPLICA, _OF_A_COLUMN, _OF_ALL)):
                raise _refused(statement, f"analytics/cluster.py does not say what {command[:60]!r} means there")
        of_a_replica = [bool(_OF_A_REPLICA.match(command)) for command in commands]
        if any(of_a_replica) and not all(of_a_replica):
            raise _refused(statement, "settings belong to each replica: they need an ALTER TABLE of their own")
        if not is_sharded:
            return (f"{verb} {DATABASE}.{name}{self.on if any(of_a_replica) else ''}{rest}",)
        changed = (f"{verb} {DATABASE}.{name}{LOCAL}{self.on}{rest}",)
        if any(_OF_A_COLUMN.match(command) for command in commands):
            return (*changed, self._front(name, "CREATE OR REPLACE TABLE"))
        return changed

    def _drop(self, name: str, statement: str) -> tuple[str, ...]:
        is_sharded = self._known(name, statement)
        self.sharded.pop(name, None)
        self.everywhere.discard(name)
        # Without SYNC a table of the same name could not be made for some minutes: its path in Keeper is still there.
        names = (name, f"{name}{LOCAL}") if is_sharded else (name,)
        return tuple(f"DROP TABLE IF EXISTS {DATABASE}.{each}{self.on} SYNC" for each in names)

    def _known(self, name: str, statement: str) -> bool:
        """Whether the table is sharded."""
        if name not in self.sharded and name not in self.everywhere:
            raise _refused(statement, f"no statement before it makes the table {name}")
        return name in self.sharded


def _refused(statement: str, why: str) -> FieldlineError:
    head = " ".join(statement.split())[:120]
    return FieldlineError(f"`{head}` cannot be brought into the cluster form: {why}.")


def _replicated_window(statement: str, settings: str) -> str:
    """A replicated table has a window of its own, and one in time beside it."""
    mine = _WINDOW.sub(
        rf"replicated_deduplication_window = \1, replicated_deduplication_window_seconds = {DEDUPLICATION_S}", settings
    )
    return statement.replace(settings, mine, 1) if mine != settings else statement


def _top(text: str) -> Iterator[re.Match[str]]:
    """The tokens outside of brackets, and not in strings or comments; strings are tokens of their own."""
    depth = 0
    for token in _TOKEN.finditer(text):
        depth -= token[0] in ")]"
        if not depth and not token[0].startswith(("--", "/*")):
            yield token
        depth += token[0] in "(["


def _clauses(statement: str) -> dict[str, str]:
    """What follows the columns of a CREATE TABLE, by its first word."""
    starts = [token for token in _top(statement) if token[0] in _CLAUSES]
    ends = [token.start() for token in starts[1:]] + [len(statement)]
    return {token[0]: statement[token.start() : end].strip() for token, end in zip(starts, ends, strict=True)}


def _first(order: str) -> str:
    """The first word of the sorting key."""
    found = re.match(r"ORDER BY\s*\(?\s*(\w+)\s*(?:[,)]|\Z)", order)
    return found[1] if found else ""


def _split(commands: str) -> Iterator[str]:
    """The commands of an ALTER TABLE."""
    start = 0
    for token in _top(commands):
        if token[0] == "," and _NEXT.match(commands, token.end()):
            yield commands[start : token.start()].strip()
            start = token.end()
    yield commands[start:].strip()

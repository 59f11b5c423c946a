"""ClickHouse without an engine: the few statements of ingest, with everything that can go wrong between them.

A statement reaches the server, begins (its fence is evaluated), takes its time, and becomes visible partition
by partition; its answer may be lost or come too late, and the client's end does not stop it. KILL QUERY and a
crash of the server do. A block whose token a partition has seen is not stored again. An unknown statement is
an error of the simulation: it must learn it.

Facts: docs/decisions/0002 and 0003.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

from clickhouse_connect.driver.exceptions import DatabaseError, OperationalError

from ingest.clickhouse.client import INSERT_SETTINGS
from telemetry.ranges import SeqRanges
from tests.native import decode
from tests.sim.loop import LIFE, NOBODY, Signal, SimLoop, block

Key = tuple[str, str]
ANSWER_S_MAX = 3.0
CURSED = 666.0
"""A value that the table's constraint refuses."""


class ServerError(DatabaseError):  # type: ignore[misc]
    """What the server answers."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"Code: {code}. DB::Exception: {text}")
        self.code = code


@dataclass(eq=False)
class Statement:
    """One that is running. parts: what becomes visible, one after another."""

    worker: str
    parts: "Iterator[Callable[[], None]]"
    done: Signal
    error: Exception | None = None
    killed: bool = False


@dataclass
class Row:
    """A stored reading or dead letter. name: device/metric, or what sent the letter."""

    value: Any
    name: str
    measured_ms: int
    ingested_ms: int


@dataclass
class Server:
    """The tables. `refuses`: what every insert is answered with, for a while."""

    loop: SimLoop
    chance: Random
    is_up: bool = True
    refuses: ServerError | None = None
    unreliable: float = 0.0
    readings: dict[tuple[str, str, int], list[Row]] = field(default_factory=lambda: defaultdict(list))
    dead_letters: dict[tuple[str, str, int], list[Row]] = field(default_factory=lambda: defaultdict(list))
    losses: list[tuple[str, str, int, int, int]] = field(default_factory=list)
    ledger: dict[Key, tuple[int, SeqRanges]] = field(default_factory=dict)
    intents: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    workers: list[tuple[int, int, str]] = field(default_factory=list)
    tokens: set[tuple[str, str, str]] = field(default_factory=set)
    running: list[Statement] = field(default_factory=list)
    on_ledger: Callable[[Key, SeqRanges], None] = lambda _key, _ranges: None

    def crash(self) -> None:
        """SIGKILL: what is visible stays, what runs is gone."""
        self.is_up = False
        for statement in list(self.running):
            self._end(statement, OperationalError("connection reset"))

    def start(self, worker: str, parts: "Iterator[Callable[[], None]]", done: Signal) -> Statement:
        statement = Statement(worker, parts, done)
        self.running.append(statement)
        self._later(1.0 if self.chance.random() < 0.03 else self.chance.choice((0.0, 0.01, 0.1)), statement)
        return statement

    def _later(self, seconds: float, statement: Statement) -> None:
        token = LIFE.set(NOBODY)
        try:
            self.loop.call_later(seconds, self._step, statement)
        finally:
            LIFE.reset(token)

    def _step(self, statement: Statement) -> None:
        if statement not in self.running:
            return
        try:
            part = next(statement.parts)
        except StopIteration:
            self._end(statement, None)
        except ServerError as error:
            self._end(statement, error)
        else:
            part()
            self._later(self.chance.choice((0.0, 0.001, 0.02)), statement)

    def _end(self, statement: Statement, error: Exception | None) -> None:
        self.running.remove(statement)
        statement.error = error
        statement.done.set()

    def kill(self, worker: str) -> None:
        for statement in list(self.running):
            if statement.worker == worker:
                self._end(statement, ServerError(394, "Query was cancelled"))

    def owner(self, partition: int) -> str:
        return max((fence, worker) for p, fence, worker in self.workers if p == partition)[1]

    def is_stored(self, key: Key, first: int, last: int) -> bool:
        """Whether every seq is a reading, a dead letter or in a loss."""
        lost = SeqRanges((a, b) for gateway, epoch, a, b, _ in self.losses if (gateway, epoch) == key)
        return all(
            (*key, seq) in self.readings or (*key, seq) in self.dead_letters or lost.covers(seq, seq)
            for seq in range(first, last + 1)
        )

    def insert(self, statement: str, body: bytes, token: str) -> "Iterator[Callable[[], None]]":
        """The parts of one INSERT of a worker; the first step evaluates the fence."""
        match = re.search(r"INSERT INTO fieldline\.(\w+)", statement)
        assert match is not None
        table = match[1]
        if self.refuses is not None:
            raise self.refuses
        fence = re.search(r"owner != '(\w+)'.*partition IN \(([\d,]+)\)", statement)
        if fence is not None:
            worker, owned = fence[1], map(int, fence[2].split(","))
            if any(self.owner(partition) != worker for partition in owned):
                raise ServerError(395, "fenced: another worker has taken over: while executing throwIf")
        yield lambda: None  # the fence was evaluated; time passes
        rows = _decoded(body)
        if table == "readings" and any(row["value"] == CURSED for row in rows):
            raise ServerError(469, "Constraint is violated")
        for month, part in _by_month(table, rows):
            if (table, month, token) not in self.tokens:
                yield lambda part=part, month=month: self._store(table, month, token, part)

    def _store(self, table: str, month: str, token: str, rows: list[dict[str, Any]]) -> None:
        self.tokens.add((table, month, token))
        for row in rows:
            getattr(self, f"_store_{table}")(row)

    def _store_readings(self, row: dict[str, Any]) -> None:
        stored = Row(row["value"], f"{row['device']}/{row['metric']}", row["measured_at"], row["ingested_at"])
        self.readings[row["gateway"], row["epoch"], row["seq"]].append(stored)

    def _store_dead_letters(self, row: dict[str, Any]) -> None:
        stored = Row(row["raw"], row["source"], 0, row["ingested_at"])
        self.dead_letters[row["gateway"], row["epoch"], row["seq"]].append(stored)

    def _store_losses(self, row: dict[str, Any]) -> None:
        self.losses.append((row["gateway"], row["epoch"], row["first_seq"], row["last_seq"], row["ingested_at"]))

    def _store_intents(self, row: dict[str, Any]) -> None:
        intent = self.intents.setdefault((row["worker"], row["number"]), dict(row))
        intent["done"] = max(intent["done"], row["done"])

    def _store_ledger(self, row: dict[str, Any]) -> None:
        key = row["gateway"], row["epoch"]
        ranges = SeqRanges((part["first"], part["last"]) for part in row["ahead"])
        if row["mark"]:
            ranges.add(1, row["mark"])
        self.on_ledger(key, ranges)
        if key not in self.ledger or row["version"] >= self.ledger[key][0]:
            self.ledger[key] = row["version"], ranges

    def _store_gateways(self, row: dict[str, Any]) -> None:
        pass


def _by_month(table: str, rows: list[dict[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    if table != "readings":
        return [("", rows)]
    months: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        at = datetime.fromtimestamp(row["measured_at"] / 1000, UTC)
        months.setdefault(f"{at:%Y%m}", []).append(row)
    return list(months.items())


def _decoded(body: bytes) -> list[dict[str, Any]]:
    """Times are ms since 1970 UTC; a dead letter's raw bytes stay bytes."""
    columns = {name: values for name, (_, values) in decode(body).items()}
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return [{name: value if name == "raw" else _plain(value) for name, value in row.items()} for row in rows]


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, dict):
        return {name: _plain(part) for name, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list) else value


@dataclass
class Result:
    """As clickhouse_connect gives it."""

    result_rows: list[tuple[Any, ...]]


class Client:
    """In place of clickhouse_connect's; blocks a Thread's job."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self.server_settings = dict.fromkeys(INSERT_SETTINGS) | {"insert_deduplication_token": None}

    def raw_insert(
        self, insert_block: list[bytes], settings: dict[str, Any], transport_settings: dict[str, str]
    ) -> None:
        """An INSERT of a worker, its statement before its data."""
        data = b"".join(insert_block)
        assert transport_settings == {"Content-Length": str(len(data))}
        statement, _, body = data.partition(b"\n")
        match = re.search(rb"/\* fieldline worker (\w+) \*/ .* FORMAT Native$", statement)
        assert match is not None, f"the simulated server does not know this statement: {statement!r}"
        self._reach()
        inserted = self._server.insert(statement.decode(), body, settings["insert_deduplication_token"])
        self._run(match[1].decode(), inserted)

    def command(self, statement: str) -> None:
        server = self._server
        self._reach()
        if statement.startswith("KILL QUERY"):
            match = re.search(r"fieldline worker (\w+) ", statement)
            assert match is not None
            server.kill(match[1])
        elif "INSERT INTO fieldline.workers" in statement:
            self._run("", self._fences(statement))
        elif "REPLACE (1 AS done)" in statement:
            match = re.search(r"worker = '(\w+)' AND number = (\d+)", statement)
            assert match is not None
            server.intents[match[1], int(match[2])]["done"] = 1
        else:
            raise AssertionError(f"the simulated server does not know this statement: {statement}")

    def _fences(self, statement: str) -> "Iterator[Callable[[], None]]":
        rows = [(int(p), int(f), w) for p, f, w in re.findall(r"\((\d+), (\d+), '(\w+)', now64", statement)]
        assert rows, statement
        yield lambda: self._server.workers.extend(rows)

    def query(self, query: str) -> Result:
        self._reach()
        rows = list(self._rows(query))
        self._reach()
        return Result(rows)

    def _reach(self) -> None:
        """The way there or back."""
        block(self._server.loop, self._server.chance.choice((0.0, 0.001, 0.02)))
        if not self._server.is_up:
            raise OperationalError("connection refused")

    def _run(self, worker: str, parts: "Iterator[Callable[[], None]]") -> None:
        server = self._server
        if server.chance.random() < server.unreliable / 2:
            raise OperationalError("the connection was lost before the statement began")
        done = Signal(server.loop)
        statement = server.start(worker, parts, done)
        if server.chance.random() < server.unreliable:
            block(server.loop, server.chance.choice((0.0, 0.05, 0.5)))
            raise OperationalError("the connection was lost before the answer came")
        if not done.wait(ANSWER_S_MAX):
            raise OperationalError("timed out")
        if statement.error is not None:
            raise statement.error

    def _rows(self, query: str) -> Iterator[tuple[Any, ...]]:
        server = self._server
        if query.startswith("SELECT DISTINCT argMax(worker"):
            yield from {(server.owner(partition),): None for partition in _owned(query)}  # distinct, in order
        elif query.startswith("SELECT worker, max(fence)"):
            latest: dict[str, int] = {}
            for partition, fence, worker in server.workers:
                if partition in _owned(query):
                    latest[worker] = max(fence, latest.get(worker, 0))
            yield from sorted(latest.items(), key=lambda item: item[1])
        elif query.startswith("SELECT gateway, epoch, argMax(mark"):
            for (gateway, epoch), (_, ranges) in server.ledger.items():
                yield gateway, epoch, ranges.mark, [a for a, _ in ranges.ahead], [b for _, b in ranges.ahead]
        elif query.startswith("SELECT worker, number, "):
            yield from self._open_intents(_owned(query))
        elif query.startswith("SELECT gateway, epoch, arraySort"):
            yield from self._stored_at(query)
        elif query.startswith("SELECT toString(gateway), toString(epoch), first_seq"):
            at = int(re.findall(r"Milli\((\d+)", query)[0])
            yield from ((g, e, first, last) for g, e, first, last, ingested in server.losses if ingested == at)
        else:
            raise AssertionError(f"the simulated server does not know this query: {query}")

    def _open_intents(self, owned: list[int]) -> Iterator[tuple[Any, ...]]:
        found = [i for i in self._server.intents.values() if not i["done"] and set(i["partitions"]) & set(owned)]
        for intent in sorted(found, key=lambda intent: intent["created_at"]):
            yield (
                intent["worker"],
                intent["number"],
                intent["created_at"],
                [part["gateway"] for part in intent["ranges"]],
                [part["epoch"] for part in intent["ranges"]],
                intent["measured_min"],
                intent["measured_max"],
            )

    def _stored_at(self, query: str) -> Iterator[tuple[Any, ...]]:
        at, low, high, _ = map(int, re.findall(r"Milli\((\d+)", query))
        found: dict[Key, set[int]] = {}
        for table, bounded in ((self._server.readings, True), (self._server.dead_letters, False)):
            for (gateway, epoch, seq), rows in table.items():
                if any(r.ingested_ms == at and (not bounded or low <= r.measured_ms <= high) for r in rows):
                    found.setdefault((gateway, epoch), set()).add(seq)
        for (gateway, epoch), seqs in found.items():
            yield gateway, epoch, sorted(seqs)


def _owned(query: str) -> list[int]:
    match = re.search(r"partition IN \(([\d,]+)\)|hasAny\(partitions, \[([\d,]+)\]\)", query)
    assert match is not None, query
    return [int(partition) for partition in (match[1] or match[2]).split(",")]

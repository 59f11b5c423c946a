"""Writer, ledger, fence and recovery against the real engine: a crash at every step, a predecessor that wakes up.

A crash is a client that stops answering at one statement: before it ran, or after it ran but before the
answer came. Then a new worker takes over, the gateway sends everything again from the receipt, and the
tables must hold every seq once.
"""

import random
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from analytics.migrate import migrate
from ingest.admit import Admission
from ingest.clickhouse.client import Client, connect
from ingest.decode import decode
from ingest.insert import FencedError, Inserter, StoppedError
from ingest.ledger import Ledger
from ingest.writer import Writer
from telemetry import wire
from telemetry.clock import SystemClock
from telemetry.columns import Columns, DeadLetter, Series
from telemetry.ranges import SeqRanges
from tests.clickhouse import Server, clickhouse

TABLES = ("readings", "dead_letters", "losses", "ledger", "intents", "workers")
JANUARY, FEBRUARY = 1_704_067_200_000, 1_706_745_600_000  # 2024


class Crash(BaseException):
    """Not an Exception: nothing in the code under test may catch it, as nothing catches SIGKILL."""


class CrashingClient:
    """A client that crashes its user at its n-th statement that writes, before or after it has run."""

    def __init__(self, client: Client, at: int, *, after: bool) -> None:
        self._client = client
        self._left = at
        self._after = after

    def command(self, *args: Any, **kwargs: Any) -> Any:
        return self._crashing(self._client.command, *args, **kwargs)

    def raw_insert(self, *args: Any, **kwargs: Any) -> Any:
        return self._crashing(self._client.raw_insert, *args, **kwargs)

    def _crashing(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left == 0 and not self._after:
            raise Crash
        answer = call(*args, **kwargs)
        if self._left == 0:
            raise Crash
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with clickhouse(tmp_path_factory.mktemp("custody") / "ch") as server:
        client = connect(server.url, database="default")
        migrate(client)
        client.close()
        yield server


@pytest.fixture
def client(server: Server) -> Iterator[Client]:
    client = connect(server.url)
    for table in TABLES:
        client.command(f"TRUNCATE TABLE fieldline.{table}")
    yield client
    client.close()


def batch_bytes(first: int, count: int, gateway: str = "g1", epoch: str = "e1", value: float = 0.0) -> bytes:
    """Readings of two months, with a dead letter at every tenth seq."""
    columns = Columns()
    for seq in range(first, first + count):
        if seq % 10 == 0:
            columns.add_dead(DeadLetter("t", b"\xff\x00" + str(seq).encode(), "is bad"), JANUARY)
            continue
        columns.series.append(seq % 3)
        columns.measured_at.append((JANUARY if seq % 2 else FEBRUARY) + seq)
        columns.received_at.append(FEBRUARY + seq)
        columns.value.append(value or float(seq))
        columns.quality.append(0)
    header = wire.Header(gateway, epoch, first, count)
    return wire.encode(header, columns, lambda id_: Series(f"d{id_}", "m", "u"))


class Life:
    """One worker's life, without its trunk."""

    def __init__(self, client: Any, partitions: tuple[int, ...] = (0,)) -> None:
        name = f"{random.getrandbits(64):016x}"
        self.inserter = Inserter(client, name, list(partitions), threading.Event())
        self.ledger = Ledger(self.inserter, SystemClock())
        self.writer = Writer(self.inserter, self.ledger)
        self.admission = Admission()

    def take_over(self) -> None:
        self.admission.load(self.ledger.take_over())

    def commit(self, *payloads: bytes, gateway: str = "g1") -> None:
        slices = [part for payload in payloads for part in self.admission.admit(decode(payload, gateway))]
        if slices:
            commit = self.writer.prepare(slices)
            self.writer.write(commit)
            marks = self.admission.after(commit.intent.ranges)
            self.ledger.settle(commit.intent, marks)
            self.admission.commit(marks)

    def work(self, *payloads: bytes) -> None:
        self.take_over()
        self.commit(*payloads)

    def receipt(self, gateway: str = "g1", epoch: str = "e1") -> SeqRanges:
        return self.admission.receipt_ranges((gateway, epoch))


def stored(client: Client) -> list[int]:
    query = "SELECT seq FROM (SELECT seq FROM readings UNION ALL SELECT seq FROM dead_letters) ORDER BY seq"
    return [seq for (seq,) in client.query(query).result_rows]


def account(client: Client) -> tuple[int, ...]:
    query = "SELECT committed, stored, dead_lettered, losses, duplicates, missing, uncommitted FROM accounting"
    rows = client.query(query).result_rows
    assert len(rows) == 1, rows
    return tuple(rows[0])


def test_a_commit_brings_readings_dead_letters_and_losses_into_their_tables(client: Client) -> None:
    life = Life(client)
    life.take_over()
    life.commit(batch_bytes(1, 25), wire.encode_loss(wire.Header("g1", "e1", 26, 5), "evicted", FEBRUARY))
    assert life.receipt() == SeqRanges([(1, 30)])
    assert account(client) == (30, 23, 2, 5, 0, 0, 0)
    row = client.query(
        "SELECT device, metric, unit, measured_at, received_at, value, text, quality, gateway, epoch "
        "FROM readings WHERE seq = 7"
    ).result_rows[0]
    assert row[:3] == ("d1", "m", "u")
    assert row[3].timestamp() * 1000 == JANUARY + 7
    assert row[4].timestamp() * 1000 == FEBRUARY + 7
    assert row[5:] == (7.0, "", 0, "g1", "e1")
    raw = client.query("SELECT hex(raw), reason, source FROM dead_letters WHERE seq = 20").result_rows
    assert raw == [("FF003230", "is bad", "t")]
    (loss,) = client.query("SELECT first_seq, last_seq, reason, declared_at FROM losses").result_rows
    assert loss[:3] == (26, 30, "evicted")
    assert loss[3].timestamp() * 1000 == FEBRUARY


def statements_of_a_life(client: Client) -> int:
    """How many commands a take-over and a commit issue."""
    counting = CrashingClient(client, 10_000, after=True)
    life = Life(counting)
    life.take_over()
    life.commit(batch_bytes(1, 25))
    return 10_000 - counting._left


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_crash_at_any_statement_loses_and_doubles_nothing(client: Client, after: bool) -> None:
    statements = statements_of_a_life(client)
    assert statements >= 6  # fence, intent, two months, dead letters, ledger
    for at in range(1, statements + 1):
        for table in TABLES:
            client.command(f"TRUNCATE TABLE fieldline.{table}")
        first = Life(client)
        first.take_over()
        first.commit(batch_bytes(1, 10))
        crashing = Life(CrashingClient(client, at, after=after))
        with pytest.raises(Crash):
            crashing.work(batch_bytes(11, 30))
        successor = Life(client)
        successor.take_over()
        mark = successor.receipt().mark
        assert 10 <= mark <= 40
        assert set(range(1, mark + 1)) <= set(stored(client)), "a receipt must not cover what is not stored"
        successor.commit(batch_bytes(mark + 1, 45 - mark), batch_bytes(11, 20))
        assert stored(client) == list(range(1, 46)), f"crash at statement {at}"
        assert account(client) == (45, 41, 4, 0, 0, 0, 0)
        assert successor.receipt() == SeqRanges([(1, 45)])


def test_an_intent_is_looked_up_only_until_it_is_settled(client: Client) -> None:
    life = Life(client)
    life.take_over()
    for first in range(1, 50, 10):
        life.commit(batch_bytes(first, 10))
    count = "SELECT count() FROM (SELECT max(done) AS m FROM intents GROUP BY worker, number HAVING m = 0)"
    assert client.query(count).result_rows == [(1,)], "only the last intent may be open"
    Life(client).take_over()
    assert client.query(count).result_rows == [(0,)]


def test_a_predecessor_that_wakes_up_can_write_nothing(client: Client) -> None:
    old = Life(client)
    old.take_over()
    old.commit(batch_bytes(1, 10))
    new = Life(client)
    new.take_over()
    new.commit(batch_bytes(11, 10))
    with pytest.raises(FencedError):
        old.commit(batch_bytes(11, 10))
    assert stored(client) == list(range(1, 21))
    assert account(client) == (20, 18, 2, 0, 0, 0, 0)


def test_a_fence_of_other_partitions_harms_nobody(client: Client) -> None:
    one, other = Life(client, (0, 1)), Life(client, (2, 3))
    one.take_over()
    other.take_over()
    one.commit(batch_bytes(1, 10))
    other.commit(batch_bytes(1, 10, gateway="g2"), gateway="g2")
    third = Life(client, (1,))
    third.take_over()
    other.commit(batch_bytes(11, 10, gateway="g2"), gateway="g2")
    with pytest.raises(FencedError):
        one.commit(batch_bytes(11, 10))


def test_the_same_insert_twice_is_stored_once(client: Client) -> None:
    """The answer was lost: the same bytes and token go again."""
    life = Life(client)
    life.take_over()
    commit = life.writer.prepare(life.admission.admit(decode(batch_bytes(1, 20), "g1")))
    for _ in range(3):
        for block, encoded in commit.inserts:
            life.inserter.send(encoded)
            life.inserter.insert(block.target, block.rows)
    assert stored(client) == list(range(1, 21))


def test_rows_that_clickhouse_refuses_become_dead_letters_and_the_rest_is_in(client: Client) -> None:
    client.command("ALTER TABLE fieldline.readings ADD CONSTRAINT sane CHECK value != 666")
    try:
        life = Life(client)
        life.take_over()
        bad = batch_bytes(21, 1, value=666.0)
        life.commit(batch_bytes(1, 20), bad, batch_bytes(22, 30))
        assert stored(client) == list(range(1, 52))
        rows = client.query("SELECT seq, reason, raw FROM dead_letters WHERE source = 'reading of d0'").result_rows
        assert [row[0] for row in rows] == [21]
        assert "sane" in rows[0][1]
        assert "666.0" in str(rows[0][2])
        assert life.receipt() == SeqRanges([(1, 51)])
    finally:
        client.command("ALTER TABLE fieldline.readings DROP CONSTRAINT sane")


def test_a_stopped_worker_gives_up_waiting_for_clickhouse(server: Server, client: Client, tmp_path: Path) -> None:
    life = Life(client)
    life.take_over()
    life.inserter.stop.set()
    client.command("RENAME TABLE fieldline.intents TO fieldline.intents_away")
    try:
        with pytest.raises(StoppedError):
            life.commit(batch_bytes(1, 5))
        assert "trying again" in life.inserter.trouble
    finally:
        client.command("RENAME TABLE fieldline.intents_away TO fieldline.intents")


def test_batches_in_any_order_twice_and_cut_differently(client: Client) -> None:
    chance = random.Random(7)
    life = Life(client)
    life.take_over()
    pieces = [batch_bytes(first, 25) for first in range(1, 200, 25)]
    pieces += [batch_bytes(first, min(40, 201 - first)) for first in range(1, 201, 40)]
    chance.shuffle(pieces)
    for index in range(0, len(pieces), 3):
        life.commit(*pieces[index : index + 3])
        receipt = life.receipt()
        held = set(stored(client))
        assert all(set(range(first, last + 1)) <= held for first, last in receipt)
        if index == 6:
            life = Life(client)
            life.take_over()
    assert stored(client) == list(range(1, 201))
    assert life.receipt() == SeqRanges([(1, 200)])

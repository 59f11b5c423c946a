"""Two workers that take over at the same moment, in every order that matters; in one process, for the order's sake.

`Between` lets something else happen after the n-th query of a worker, as another process could at any moment.
"""

import random
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from broker_bridge.contract import partition_of
from ingest.admit import Admission, Slice
from ingest.clickhouse.client import Client, connect
from ingest.decode import decode
from ingest.insert import FencedError, Inserter
from ingest.ledger import Ledger
from ingest.writer import Writer
from telemetry import wire
from telemetry.clock import SystemClock
from telemetry.ranges import SeqRanges
from tests.trunk import NEW_YEAR_MS, Rig, make_batch

FEBRUARY_MS = NEW_YEAR_MS + 31 * 86_400_000
PARTITIONS = 16
LOW, HIGH = range(8), range(8, 16)
BOTH = range(16)


def a_gateway_of(partitions: range) -> str:
    return next(name for number in range(100) if partition_of(name := f"g{number}", PARTITIONS) in partitions)


IN_LOW, IN_HIGH = a_gateway_of(LOW), a_gateway_of(HIGH)


class Between:
    """A client after whose query number `at` something happens."""

    def __init__(self, client: Client, at: int, happens: Callable[[], None]) -> None:
        self._client = client
        self._left = at
        self._happens = happens

    def query(self, query: str) -> Any:
        answer = self._client.query(query)
        self._left -= 1
        if self._left == 0:
            self._happens()
        return answer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class Life:
    """One worker's life, without its trunk."""

    def __init__(self, client: Any, owned: range = BOTH, worker: str = "") -> None:
        name = worker or f"{random.getrandbits(64):016x}"
        self.inserter = Inserter(client, name, list(owned), threading.Event())
        self.ledger = Ledger(
            self.inserter, SystemClock(), owns=lambda gateway: partition_of(gateway, PARTITIONS) in owned
        )
        self.writer = Writer(self.inserter, self.ledger)
        self.admission = Admission()

    def take_over(self) -> "Life":
        self.admission.load(self.ledger.take_over())
        return self

    def admit(self, first: int, count: int, *gateways: str) -> list[Slice]:
        payloads = {gateway: make_batch(wire.Header(gateway, "e1", first, count)) for gateway in gateways}
        return [part for name, payload in payloads.items() for part in self.admission.admit(decode(payload, name))]

    def commit(self, first: int, count: int, *gateways: str) -> None:
        """Commit these seqs of each gateway."""
        commit = self.writer.prepare(self.admit(first, count, *gateways))
        self.writer.write(commit)
        marks = self.admission.after(commit.intent.ranges)
        self.ledger.settle(commit.intent, marks)
        self.admission.commit(marks)

    def leave(self, first: int, count: int, *gateways: str) -> None:
        """The same, but killed between the rows and the ledger."""
        self.writer.write(self.writer.prepare(self.admit(first, count, *gateways)))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig.started(tmp_path_factory.mktemp("takeover")) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Rig:
    shared.clear()
    return shared


@pytest.fixture
def client(rig: Rig) -> Iterator[Client]:
    client = connect(rig.server.url)
    yield client
    client.close()


@pytest.mark.parametrize(("at", "other_id"), [(1, "a"), (1, "z"), (2, "a"), (3, "a"), (4, "a"), (5, "a")])
def test_another_worker_takes_over_and_commits_in_the_middle_of_a_takeover(
    rig: Rig, client: Client, at: int, other_id: str
) -> None:
    """One of the two goes on, the other ends; and what both have committed is there once, and known."""
    other = Life(client, worker=other_id)

    def happens() -> None:
        other.take_over()
        for seq in range(11, 51, 10):
            other.commit(seq, 10, IN_LOW)

    Life(client).take_over().commit(1, 10, IN_LOW)
    mine = Life(Between(client, at, happens), worker="m")
    try:
        mine.take_over()
        mine.commit(11, 60, IN_LOW)
    except FencedError:
        other.commit(1, 100, IN_LOW)
    else:
        mine.commit(1, 100, IN_LOW)
        with pytest.raises(FencedError):
            other.commit(101, 10, IN_LOW)
    assert rig.stored(IN_LOW) == list(range(1, 101))
    rig.assert_accounted()
    last = Life(client).take_over()
    assert last.admission.receipt_ranges((IN_LOW, "e1")) == SeqRanges([(1, 100)]), "the last entry counts"
    last.commit(51, 100, IN_LOW)
    assert rig.stored(IN_LOW) == list(range(1, 151))
    rig.assert_accounted()


@pytest.mark.parametrize("at", [1, 2, 4, 5, 7])
def test_two_workers_divide_what_one_has_left_at_the_same_moment(rig: Rig, client: Client, at: int) -> None:
    """Neither writes into the ledger what is the other's, also if its fence is the higher one."""
    for _ in range(3):
        Life(client, LOW).take_over()
    old = Life(client).take_over()
    old.commit(1, 10, IN_LOW, IN_HIGH)
    old.leave(11, 10, IN_LOW, IN_HIGH)
    high = Life(client, HIGH)

    def happens() -> None:
        high.take_over()
        high.commit(21, 10, IN_HIGH)

    low = Life(Between(client, at, happens), LOW).take_over()
    low.commit(11, 20, IN_LOW)
    high.commit(31, 10, IN_HIGH)
    rig.assert_accounted()
    both = Life(client).take_over()
    both.commit(1, 40, IN_LOW, IN_HIGH)
    for gateway in (IN_LOW, IN_HIGH):
        assert rig.stored(gateway) == list(range(1, 41)), gateway
    rig.assert_accounted()

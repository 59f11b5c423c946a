"""One owner at a time, and one truth about an insert whose answer was lost.

Workers are real processes; between them and ClickHouse stands a proxy that cuts, or holds, a chosen statement.
"""

import asyncio
import contextlib
import random
import re
import signal
from collections.abc import Callable, Iterator

import pytest

from broker_bridge.contract import Receipt
from tests.brokers import eventually
from tests.cutter import CUTS, Cutter, Point
from tests.trunk import NEW_YEAR_MS, FakeGateway, Rig, WorkerProcess, kill

FEBRUARY_MS = NEW_YEAR_MS + 31 * 86_400_000
QUICK = "commit.age_s_max = 0.1"
FENCED = "Another worker has taken over these partitions; this one ends."
READINGS, LEDGER = "INSERT INTO fieldline.readings", "INSERT INTO fieldline.ledger"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig.started(tmp_path_factory.mktemp("fencing")) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Rig:
    shared.clear()
    return shared


@contextlib.contextmanager
def through(rig: Rig, cutter: Cutter) -> Iterator[WorkerProcess]:
    """A worker that reaches ClickHouse through the cutter; killed at the end if it still runs."""
    worker = rig.make_worker(QUICK, url=cutter.url).start()
    try:
        worker.until_said("Trunk: connected")
        yield worker
    finally:
        kill(worker)


def two_months(gateway: FakeGateway, first: int, count: int) -> dict[tuple[int, int], bytes]:
    """A batch whose first half is of January and whose second half is of February: two blocks in one commit."""
    return {(first, first + count - 1): gateway.batch(first, count, at_ms=FEBRUARY_MS - first - count // 2)}


async def send(gateway: FakeGateway, batches: dict[tuple[int, int], bytes]) -> None:
    for payload in batches.values():
        await gateway.send(payload)


async def connected(worker: WorkerProcess, times: int) -> None:
    """Until it has been connected to the trunk this often, over all its lives."""
    await eventually(lambda: worker.said.count("Trunk: connected") == times, "the next life", 40.0)


def assert_stored_once(rig: Rig, last: int, *names: str) -> None:
    for name in names:
        assert rig.stored(name) == list(range(1, last + 1)), name
    rig.assert_accounted()


def id_of(worker: WorkerProcess) -> str:
    """The id of its last life."""
    return worker.said.rsplit(" owns partitions", 1)[0].rsplit(" ", 1)[1]


def assert_fenced(worker: WorkerProcess) -> None:
    assert worker.ended() == 3
    assert FENCED in worker.said
    assert "Traceback" not in worker.said


def test_a_second_worker_takes_over_and_the_first_ends(rig: Rig) -> None:
    async def deliver(name: str) -> None:
        async with rig.gateway(name) as gateway:
            for first in range(1, 601, 100):
                await gateway.deliver(two_months(gateway, first, 100))

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in ("g1", "g2", "g3"):
                tasks.create_task(deliver(name))
            await eventually(lambda: len(rig.stored("g1")) >= 200, "the first worker works")
            second.start()
            await asyncio.to_thread(assert_fenced, first)

    second = rig.make_worker(QUICK)
    with rig.worker(QUICK) as first:
        try:
            asyncio.run(run())
            assert_stored_once(rig, 600, "g1", "g2", "g3")
            late = (
                "SELECT count() FROM fieldline.intents WHERE worker = '{}' AND created_at > "
                "(SELECT max(started_at) FROM fieldline.workers WHERE worker = '{}')"
            )
            assert rig.rows(late.format(id_of(first), id_of(second))) == [(0,)]
            assert second.end() == 0
        finally:
            kill(second)


def test_one_that_hangs_in_the_middle_and_wakes_up_later_doubles_nothing(rig: Rig) -> None:
    chance = random.Random(5)

    async def run() -> None:
        async with rig.gateway("g1") as gateway:
            for first in (1, 101):
                old = rig.make_worker(QUICK).start()
                new = rig.make_worker(QUICK)
                try:
                    old.until_said("Trunk: connected")
                    await send(gateway, two_months(gateway, first, 100))
                    await asyncio.sleep(chance.uniform(0.08, 0.16))  # around the moment of the commit
                    old.send_signal(signal.SIGSTOP)
                    new.start()
                    await gateway.deliver(two_months(gateway, first, 100))
                    old.send_signal(signal.SIGCONT)
                    await asyncio.to_thread(assert_fenced, old)
                    assert_stored_once(rig, first + 99, "g1")
                    assert new.end() == 0
                finally:
                    kill(old)
                    kill(new)

    asyncio.run(run())


@pytest.mark.parametrize("part", [READINGS, LEDGER])
def test_a_statement_that_is_on_its_way_when_another_takes_over_is_refused(rig: Rig, part: str) -> None:
    """The first worker's insert hangs in the network, arrives after the takeover, and must change nothing."""

    async def run() -> None:
        async with rig.gateway("g1") as gateway:
            cutter.once(part, "hold")
            await send(gateway, two_months(gateway, 1, 100))
            await eventually(cutter.held.is_set, "the insert is on its way")
            second.start()
            await gateway.deliver(two_months(gateway, 1, 100) | two_months(gateway, 101, 100))
            cutter.release()
            await asyncio.to_thread(assert_fenced, first)

    second = rig.make_worker(QUICK)
    with Cutter(rig.server.port) as cutter, through(rig, cutter) as first:
        try:
            asyncio.run(run())
            assert_stored_once(rig, 200, "g1")
            assert second.end() == 0
        finally:
            kill(second)


def test_a_statement_that_runs_during_the_takeover_is_not_overlooked(rig: Rig) -> None:
    """Its fence was right when it began, so it must have ended before the second worker looks up what is stored."""
    running = "SELECT count() FROM system.processes WHERE query LIKE '/* fieldline worker%INTO fieldline.readings%'"

    async def run() -> None:
        async with rig.gateway("g1") as gateway:
            cutter.once("INSERT INTO fieldline.workers", "hold")
            second.start()
            await eventually(cutter.held.is_set, "the second worker is about to take over")
            await send(gateway, {(1, 60): gateway.batch(1, 60)})
            await eventually(lambda: rig.rows(running) == [(1,)], "the first worker's insert runs")
            cutter.release()
            await asyncio.to_thread(assert_fenced, first)
            rig.client.command("ALTER TABLE fieldline.readings DROP CONSTRAINT slow")
            await gateway.deliver({(1, 60): gateway.batch(1, 60)})

    rig.client.command("ALTER TABLE fieldline.readings ADD CONSTRAINT slow CHECK sleepEachRow(0.04) = 0")
    with Cutter(rig.server.port) as cutter, rig.worker(QUICK) as first:
        second = rig.make_worker(QUICK, url=cutter.url)
        try:
            asyncio.run(run())
            assert_stored_once(rig, 60, "g1")
            assert second.end() == 0
        finally:
            kill(second)
            rig.client.command("ALTER TABLE fieldline.readings DROP CONSTRAINT IF EXISTS slow")


def mark_is(mark: int) -> Callable[[Receipt], bool]:
    return lambda receipt: receipt.mark == mark


def test_whatever_is_cut_the_outcome_is_the_same(rig: Rig) -> None:
    """Every statement of a commit, at every point; the worker stays alive and tries again."""
    parts = ("INSERT INTO fieldline.intents", READINGS, LEDGER)

    async def run() -> None:
        first = 1
        async with rig.gateway("g1") as gateway:
            for part in parts:
                for point in CUTS:
                    came = cutter.once(part, point)
                    await send(gateway, two_months(gateway, first, 20))
                    first += 20
                    await gateway.receipt(mark_is(first - 1), f"{part} {point}")
                    assert came.is_set()
                    assert_stored_once(rig, first - 1, "g1")

    with Cutter(rig.server.port) as cutter, through(rig, cutter) as worker:
        asyncio.run(run())
        assert worker.end() == 0
        assert "Traceback" not in worker.said


@pytest.mark.parametrize(
    ("part", "nth", "stored", "rule"),
    [
        (READINGS, 1, 0, None),
        (READINGS, 2, 50, None),
        (LEDGER, 1, 100, None),
        (READINGS, 2, 50, "answered"),
    ],
    ids=["rows", "more rows", "ledger", "takeover cut"],
)
def test_killed_before_a_statement(rig: Rig, part: str, nth: int, stored: int, rule: Point | None) -> None:
    """What is stored is found, what is not comes again; also when every answer of the takeover is lost once."""

    async def run() -> None:
        async with rig.gateway("g1") as gateway:
            hold_nth(cutter, part, nth)
            await send(gateway, two_months(gateway, 1, 100))
            await eventually(cutter.held.is_set, "the statement")
            kill(worker)
            assert len(rig.stored("g1")) == stored
            cutter.rule = once_each(rule) if rule else lambda _: "pass"
            worker.start()
            await connected(worker, times=2)
            assert (await gateway.answered()).ranges().count() == stored
            await gateway.deliver(two_months(gateway, 1, 100) | two_months(gateway, 101, 100))
            assert worker.end() == 0

    with Cutter(rig.server.port) as cutter, through(rig, cutter) as worker:
        asyncio.run(run())
    assert_stored_once(rig, 200, "g1")  # also after the held statement has arrived
    assert "Traceback" not in worker.said


def hold_nth(cutter: Cutter, part: str, nth: int) -> None:
    """Hold the nth statement with `part`."""
    left = nth

    def rule(statement: str) -> Point:
        nonlocal left
        left -= part in statement
        return "hold" if part in statement and left == 0 else "pass"

    cutter.rule = rule


def once_each(point: Point) -> Callable[[str], Point]:
    """A rule for the first statement of each kind: ids and numbers make no kind."""
    seen: set[str] = set()

    def rule(statement: str) -> Point:
        kind = re.sub(r"[0-9a-f]{16}|[0-9]+", "#", statement)
        if kind in seen:
            return "pass"
        seen.add(kind)
        return point

    return rule


def test_a_row_that_clickhouse_refuses_becomes_a_dead_letter_and_all_others_are_stored(rig: Rig) -> None:
    """It comes in the middle of a commit; the worker is killed while it looks for it, and once more."""
    bad = (7, 58, 59, 150)

    async def run() -> None:
        async with rig.gateway("g1") as gateway, rig.gateway("g2") as other:
            batches = two_months(gateway, 1, 100) | two_months(gateway, 101, 100)
            for nth in (3, 6):
                hold_nth(cutter, READINGS, nth)
                cutter.held.clear()
                await send(gateway, batches)
                await send(other, {(1, 50): other.batch(1, 50)})
                await eventually(cutter.held.is_set, "the search")
                kill(worker)
                cutter.rule = lambda _: "pass"
                worker.start()
                await connected(worker, times=nth // 3 + 1)
            await gateway.deliver(batches)
            await other.deliver({(1, 50): other.batch(1, 50)})
            assert worker.end() == 0

    names = ", ".join(f"('g1', {seq})" for seq in bad)
    rig.client.command(f"ALTER TABLE fieldline.readings ADD CONSTRAINT sane CHECK (gateway, seq) NOT IN ({names})")
    try:
        with Cutter(rig.server.port) as cutter, through(rig, cutter) as worker:
            asyncio.run(run())
        assert rig.stored("g1") == [seq for seq in range(1, 201) if seq not in bad]
        assert rig.stored("g2") == list(range(1, 51))
        rig.assert_accounted()
        letters = rig.rows("SELECT seq, source, reason, raw FROM fieldline.dead_letters ORDER BY seq")
        assert [letter[0] for letter in letters] == list(bad)
        for seq, source, reason, raw in letters:
            assert source == f"reading of g1-d{int(str(seq)) % 3}"
            assert str(reason).startswith("ClickHouse: ")
            assert "sane" in str(reason)
            assert f'"value": "{seq}.0"' in str(raw)
        assert "ClickHouse refuses a reading, it becomes a dead letter: " in worker.said
        assert "Traceback" not in worker.said
    finally:
        rig.client.command("ALTER TABLE fieldline.readings DROP CONSTRAINT sane")

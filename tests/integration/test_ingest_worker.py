"""The worker as a process, against Mosquitto and the embedded ClickHouse: crashes, stops, and neighbours that are away.

Every test ends with the same two statements: each gateway's readings stand in the table once, and the accounting
view finds nothing wrong.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest

from analytics.migrate import migrate
from ingest.clickhouse.client import connect
from telemetry import wire
from tests.brokers import eventually, wait_until
from tests.clickhouse import Server, clickhouse
from tests.trunk import FakeGateway, Rig, WorkerProcess, kill, make_batch, make_noise

QUICK = "commit.age_s_max = 0.05"
NAMES = [f"g{number}" for number in range(5)]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig.started(tmp_path_factory.mktemp("worker")) as rig:
        yield rig


@pytest.fixture
def rig(shared: Rig) -> Rig:
    shared.clear()
    return shared


def pieces(gateway: FakeGateway, first: int, last: int, rows: int) -> dict[tuple[int, int], bytes]:
    """Batches of first..last, each of `rows`."""
    cuts = [(at, min(at + rows - 1, last)) for at in range(first, last + 1, rows)]
    return {(low, high): gateway.batch(low, high - low + 1) for low, high in cuts}


async def deliver_all(rig: Rig, last: int, *, first: int = 1, rows: int = 50, step: int = 200) -> None:
    """All gateways deliver first..last, `step` seqs at a time."""

    async def one(name: str) -> None:
        async with rig.gateway(name) as gateway:
            for at in range(first, last + 1, step):
                await gateway.deliver(pieces(gateway, at, min(at + step - 1, last), rows))

    async with asyncio.TaskGroup() as tasks:
        for name in NAMES:
            tasks.create_task(one(name))


def assert_stored_once(rig: Rig, last: int, names: Sequence[str] = NAMES) -> None:
    for name in names:
        assert rig.stored(name) == list(range(1, last + 1)), name
    assert rig.rows("SELECT count() FROM fieldline.readings WHERE value != seq") == [(0,)]
    rig.assert_accounted()


def count(rig: Rig) -> int:
    return int(rig.client.command("SELECT count() FROM fieldline.readings"))


async def more_than(rig: Rig, rows: int) -> None:
    await eventually(lambda: count(rig) > rows, f"more than {rows} rows")


def assert_ends_well(worker: WorkerProcess) -> None:
    assert worker.end() == 0
    assert "Ingest has stopped." in worker.said
    assert "Traceback" not in worker.said


def test_batches_twice_out_of_order_and_cut_differently_are_stored_once(rig: Rig) -> None:
    chance = random.Random(3)
    last = 400

    async def one(name: str) -> None:
        async with rig.gateway(name) as gateway:
            sent = list(pieces(gateway, 1, last, 40).values())
            for _ in range(15):
                first = chance.randint(1, last - 1)
                sent.append(gateway.batch(first, chance.randint(1, last + 1 - first)))
            sent += chance.sample(sent, 8)
            chance.shuffle(sent)
            for payload in sent:
                await gateway.send(payload)
            await gateway.receipt(lambda receipt: receipt.mark == last)
            held = [receipt.ranges() for receipt in gateway.receipts]
            assert all(later.covers(*range_) for earlier, later in pairwise(held) for range_ in earlier), (
                "a receipt takes nothing back"
            )

    async def all_() -> None:
        async with asyncio.TaskGroup() as tasks:
            for name in NAMES:
                tasks.create_task(one(name))

    with rig.worker(QUICK) as worker:
        asyncio.run(all_())
        assert_stored_once(rig, last)
        assert_ends_well(worker)


def test_what_a_worker_was_not_told_is_asked_for_and_stored_once(rig: Rig) -> None:
    """A worker that starts knows no dictionary; recordings of old batches are answered, and change nothing."""

    async def run() -> None:
        async with rig.gateway("g0") as gateway:

            def batch(first: int, dictionary: wire.Dictionary) -> bytes:
                return make_batch(wire.Header("g0", "e1", first, 10), dictionary=dictionary)

            async def asks_for(dictionary: wire.Dictionary, mark: int) -> None:
                await gateway.receipt(lambda r: (r.undefined, r.mark) == (dictionary.id, mark), "it asks")

            old, young = wire.Dictionary(), wire.Dictionary()
            recorded = [batch(first, old) for first in (1, 11, 21)]
            with rig.worker(QUICK):
                await gateway.send(recorded[1])
                await asks_for(old, 0)
                for payload in recorded:
                    await gateway.send(payload)
                await gateway.receipt(lambda receipt: receipt.mark == 30)
            with rig.worker(QUICK) as worker:
                gateway.receipts.clear()
                await gateway.send(batch(31, old))
                await asks_for(old, 30)
                again = [batch(first, young) for first in (31, 41)]
                for payload in (*again, *recorded, *again):
                    await gateway.send(payload)
                await gateway.receipt(lambda receipt: receipt.mark == 50)
                assert not any(receipt.refused for receipt in gateway.receipts)
                assert_ends_well(worker)

    asyncio.run(run())
    assert rig.rows("SELECT device, count() FROM fieldline.readings GROUP BY 1 ORDER BY 1") == [
        ("g0-d0", 16),
        ("g0-d1", 17),
        ("g0-d2", 17),
    ]
    assert rig.rows("SELECT count() FROM fieldline.dead_letters") == [(0,)]
    assert_stored_once(rig, 50, ["g0"])


def test_epochs_of_one_gateway_are_counted_apart(rig: Rig) -> None:
    async def run() -> None:
        async with rig.gateway("g0", "e1") as one, rig.gateway("g1", "e1") as other:
            wiped = FakeGateway("g0", rig.broker.port, "e2", connection=one.connection)
            await one.deliver(pieces(one, 1, 30, 30))
            for gateway in (wiped, other):
                await gateway.send(gateway.batch(1, 20))
            await one.receipt(lambda receipt: (receipt.epoch, receipt.mark) == ("e2", 20))
            await other.receipt(lambda receipt: (receipt.epoch, receipt.mark) == ("e1", 20))

    with rig.worker(QUICK):
        asyncio.run(run())
    query = "SELECT gateway, epoch, stored, committed FROM fieldline.accounting ORDER BY 1, 2"
    assert rig.rows(query) == [("g0", "e1", 30, 30), ("g0", "e2", 20, 20), ("g1", "e1", 20, 20)]
    rig.assert_accounted()


def test_what_comes_after_a_rest_is_written_at_once_and_what_follows_waits_for_company(rig: Rig) -> None:
    async def run() -> None:
        async with rig.gateway("g0") as gateway:
            await gateway.send(gateway.batch(1, 10))
            await gateway.receipt(lambda receipt: receipt.mark == 10)
            for first in range(11, 111, 10):
                await gateway.send(gateway.batch(first, 10))
            await gateway.receipt(lambda receipt: receipt.mark == 110)

    with rig.worker("commit = {age_s_max = 3600.0, rows_max = 100}"):
        asyncio.run(run())
    assert rig.rows("SELECT uniqExact(ingested_at) FROM fieldline.readings") == [(2,)]
    assert_stored_once(rig, 110, ["g0"])


def test_killed_at_any_moment_it_loses_and_doubles_nothing(rig: Rig) -> None:
    chance = random.Random(1)
    last = 3000
    worker = rig.make_worker(QUICK)

    async def killer() -> None:
        for number in range(5):
            before = count(rig)
            worker.start()
            await eventually(lambda n=number: worker.said.count("owns partitions") > n, "it owns the partitions")
            await more_than(rig, before)  # perhaps what its predecessor had sent
            await asyncio.sleep(0.3 * chance.random() ** 3)  # the moment is the test's subject
            kill(worker)
        worker.start()

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(deliver_all(rig, last))
            tasks.create_task(killer())

    try:
        asyncio.run(run())
        assert_stored_once(rig, last)
        wait_until(lambda: worker.said.count("owns partitions") == 6, "the last worker owns the partitions, too")
        assert "Traceback" not in worker.said
    finally:
        kill(worker)


def test_sigterm_in_the_middle_ends_it_cleanly_and_the_next_one_goes_on(rig: Rig) -> None:
    last = 2000

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            delivery = tasks.create_task(deliver_all(rig, last))
            await more_than(rig, 500)
            await asyncio.to_thread(assert_ends_well, worker)
            assert not delivery.done()
            worker.start()

    worker = rig.make_worker(QUICK).start()
    try:
        asyncio.run(run())
        assert_stored_once(rig, last)
        assert_ends_well(worker)
    finally:
        kill(worker)


def test_clickhouse_is_away_at_the_start(rig: Rig) -> None:
    rig.server.stop()
    worker = rig.make_worker(QUICK).start()
    try:
        worker.until_said("No ClickHouse listens at")
        rig.server.start()
        asyncio.run(deliver_all(rig, 100))
        assert_stored_once(rig, 100)
        assert worker.said.count("No ClickHouse listens at") == 1
        assert_ends_well(worker)
    finally:
        kill(worker)
        rig.server.restart()


def test_clickhouse_is_killed_in_the_middle_and_returns(rig: Rig) -> None:
    last = 2000

    async def says(before: int) -> None:
        await eventually(lambda: worker.said.count("trying again") > before, "the worker says so")

    async def run() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(deliver_all(rig, last))
            for rows in (500, 2500):
                await more_than(rig, rows)
                said = worker.said.count("trying again")
                rig.server.kill()
                await says(said)
                await asyncio.to_thread(rig.server.start)

    with rig.worker(QUICK) as worker:
        asyncio.run(run())
        assert_stored_once(rig, last)
        assert worker.said.count("ClickHouse does not take") == 2
        assert worker.said.count("ClickHouse takes inserts again.") == 2
        assert_ends_well(worker)


def test_the_trunk_comes_back_while_clickhouse_is_away(rig: Rig) -> None:
    with rig.worker(QUICK) as worker:
        asyncio.run(deliver_all(rig, 100))
        rig.server.kill()
        rig.broker.restart()
        worker.until_said("ClickHouse does not answer, trying again")
        rig.server.start()
        asyncio.run(deliver_all(rig, 200))
        assert_stored_once(rig, 200)
        assert_ends_well(worker)


def test_the_trunk_is_away_at_the_start_and_again_later(rig: Rig) -> None:
    rig.broker.kill()
    worker = rig.make_worker(QUICK).start()
    try:
        worker.until_said("Trunk: ")
        assert f"127.0.0.1:{rig.broker.port}" in worker.said
        rig.broker.start()
        asyncio.run(deliver_all(rig, 100))
        rig.broker.restart()
        asyncio.run(deliver_all(rig, 300, first=101))
        assert_stored_once(rig, 300)
        assert_ends_well(worker)
    finally:
        kill(worker)
        rig.broker.restart()


@contextlib.contextmanager
def guarded(folder: Path) -> Iterator[Server]:
    """A server with a password and without tables."""
    secret = folder / "password"
    secret.write_text("r1ght\n")
    with clickhouse(folder / "guarded", "--user", "ingest", "--password-file", str(secret)) as server:
        yield server


def test_a_wrong_password_and_missing_tables_are_said_and_waited_for(rig: Rig, tmp_path: Path) -> None:
    with guarded(tmp_path) as server:
        wrong = rig.make_worker(url=server.url.replace("//", "//ingest:wr0ng@")).start()
        url = server.url.replace("//", "//ingest:r1ght@")
        right = rig.make_worker(url=url).start()
        try:
            wrong.until_said(f"ClickHouse at {server.url} refused the login of user ingest.")
            assert_ends_well(wrong)
            assert "wr0ng" not in wrong.said
            right.until_said("has no database fieldline yet. Run `fieldline analytics migrate`")
            client = connect(url, database="default")
            client.command("CREATE DATABASE fieldline")
            right.until_said("ClickHouse has no Fieldline tables yet. Run `fieldline analytics migrate`.")
            migrate(client)
            client.close()
            right.until_said("Trunk: connected")
            assert right.said.count("migrate") == 2
            assert_ends_well(right)
            assert "r1ght" not in right.said
        finally:
            kill(wrong)
            kill(right)


def memory(worker: WorkerProcess) -> int:
    """What it has resident, in bytes."""
    lines = Path(f"/proc/{worker.pid}/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) * 1024


def cpu_ticks(worker: WorkerProcess) -> int:
    fields = Path(f"/proc/{worker.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


@contextlib.contextmanager
def stopped(server: Server) -> Iterator[None]:
    """SIGSTOP: it neither answers nor refuses."""
    assert server.process is not None
    server.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        server.process.send_signal(signal.SIGCONT)


def test_a_clickhouse_that_hangs_fills_the_trunk_and_not_the_workers_memory(rig: Rig) -> None:
    """What comes meanwhile is four times the limit as it is sent, and ten times when decoded."""
    rows, batches, buffer_bytes = 20_000, 24, 4 * 1024 * 1024
    limits = f"commit = {{age_s_max = 0.05, rows_max = {2 * rows}, buffer_bytes_max = {buffer_bytes}}}"

    async def run() -> None:
        async with contextlib.AsyncExitStack() as stack:
            gateways = [await stack.enter_async_context(rig.gateway(name)) for name in NAMES]
            for gateway in gateways:
                await gateway.deliver({(1, rows): make_noise(gateway.name, 1, rows)})
            before = memory(worker)
            with stopped(rig.server):
                sent_bytes = 0
                for index in range(1, batches):
                    for gateway in gateways:
                        payload = make_noise(gateway.name, 1 + index * rows, rows)
                        await gateway.send(payload)
                        sent_bytes += len(payload)
                await idle(worker)
                assert sent_bytes > 4 * buffer_bytes
                assert memory(worker) - before < 3 * buffer_bytes
            for gateway in gateways:
                await gateway.receipt(lambda receipt: receipt.mark == rows * batches, seconds=60)

    with rig.worker(limits) as worker:
        asyncio.run(run())
        for name in NAMES:
            assert rig.stored(name) == list(range(1, rows * batches + 1))
        rig.assert_accounted()
        largest = rig.client.command("SELECT max(arraySum(r -> r.last - r.first + 1, ranges)) FROM fieldline.intents")
        assert largest <= 2 * rows, "a full commit does not grow, however much waits"
        assert_ends_well(worker)


async def idle(worker: WorkerProcess) -> None:
    """Until the worker does nothing any more."""
    ticks = -1
    while ticks != (ticks := cpu_ticks(worker)):
        await asyncio.sleep(0.5)


def test_a_stop_does_not_wait_for_a_clickhouse_that_hangs(rig: Rig) -> None:
    async def run() -> None:
        async with rig.gateway("g0") as gateway:
            await gateway.deliver(pieces(gateway, 1, 50, 50))
            with stopped(rig.server):
                await gateway.send(gateway.batch(51, 50))
                await gateway.answered()
                await idle(worker)
                await asyncio.to_thread(assert_ends_well_without_an_answer, worker)
            worker.start()
            await gateway.deliver(pieces(gateway, 1, 100, 50))

    def assert_ends_well_without_an_answer(worker: WorkerProcess) -> None:
        assert worker.end() == 0
        assert "stopped without an answer from ClickHouse" in worker.said

    with rig.worker(QUICK) as worker:
        asyncio.run(run())
        assert_stored_once(rig, 100, ["g0"])
        assert_ends_well(worker)

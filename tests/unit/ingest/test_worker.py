"""The worker's stages: one commit in each, in order, the next one growing behind them, and all of it within bounds.

ClickHouse is a fake that answers when the test lets it; what a real one makes of it all is in tests/integration.
"""

import asyncio
import re
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from broker_bridge import contract
from broker_bridge.contract import Receipt
from ingest.clickhouse.client import INSERT_SETTINGS
from ingest.config import Commit
from ingest.insert import Inserter
from ingest.ledger import Ledger
from ingest.worker import Threads, Worker
from telemetry import wire
from telemetry.clock import SystemClock
from tests.brokers import eventually
from tests.native import decode
from tests.records import NEW_YEAR_MS, numbered, series_of

ROWS = 100
TOPIC = contract.up_topic(contract.partition_of("g1", 1), "batch", "g1")
COMMIT = ["intents", "readings", "dead_letters", "ledger"]


@dataclass
class Gate:
    """A ClickHouse that takes a statement when its table is let. tables: of those that were begun."""

    tables: list[str] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)
    leave: dict[str, threading.Semaphore] = field(default_factory=lambda: {t: threading.Semaphore(0) for t in COMMIT})
    server_settings: dict[str, object] = field(default_factory=lambda: dict.fromkeys(INSERT_SETTINGS, ""))

    def raw_insert(self, insert_block: list[bytes], **_more: object) -> None:
        statement, _newline, body = b"".join(insert_block).partition(b"\n")
        table = re.search(rb"INTO fieldline\.(\w+)", statement)
        assert table is not None
        name = table[1].decode()
        self.tables.append(name)
        if name == "readings":
            _type, seqs = decode(body)["seq"]
            self.rows.append(len(seqs))
        assert self.leave[name].acquire(timeout=20)

    def let(self, *tables: str, times: int = 1) -> None:
        for table in tables:
            for _ in range(times):
                self.leave[table].release()


@dataclass
class Trunk:
    """In place of the downlink. marks: what receipts said."""

    marks: list[int] = field(default_factory=list)
    resumed: int = 0

    async def run(self) -> None:
        await asyncio.Event().wait()

    async def send_receipt(self, gateway: str, receipt: Receipt) -> None:
        assert (gateway, receipt.epoch) == ("g1", "e1")
        self.marks.append(receipt.mark)

    def resume(self) -> None:
        self.resumed += 1


@dataclass
class Rig:
    worker: Worker
    gate: Gate
    trunk: Trunk
    sent: int = 0

    def take(self) -> bool:
        """The next ROWS records of the gateway; whether more may come."""
        payload = wire.encode(wire.Header("g1", "e1", self.sent + 1, ROWS), numbered(self.sent + 1, ROWS), series_of)
        self.sent += ROWS
        return self.worker.take(TOPIC, payload, len(payload))

    async def begun(self, table: str, times: int) -> None:
        await eventually(lambda: self.gate.tables.count(table) == times, f"{table} is begun")

    async def confirmed(self, receipts: int) -> None:
        await eventually(lambda: len(self.trunk.marks) == receipts, f"{receipts} receipts")


@asynccontextmanager
async def working(**commit: Any) -> AsyncIterator[Rig]:
    gate, trunk = Gate(), Trunk()
    inserter = Inserter(gate, "w1", [0], threading.Event())
    with ThreadPoolExecutor(1) as prepare, ThreadPoolExecutor(1) as write, ThreadPoolExecutor(1) as settle:
        worker = Worker(
            inserter=inserter,
            ledger=Ledger(inserter, SystemClock()),
            partitions=1,
            commit=Commit(**commit),
            clock=SystemClock(),
            threads=Threads(prepare, write, settle),
        )
        downlink: Any = trunk
        task = asyncio.create_task(worker.run(downlink))
        try:
            yield Rig(worker, gate, trunk)
        finally:
            gate.let(*COMMIT, times=1000)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def spans(rig: Rig) -> list[tuple[int, int]]:
    """What is being written, what waits for it."""
    commits = (rig.worker._writing, rig.worker._ready)
    return [(first, last) for commit in commits if commit for *_, first, last in commit.intent.ranges]


def test_each_stage_has_a_commit_and_the_next_one_grows() -> None:
    async def run() -> None:
        async with working(rows_max=ROWS, age_s_max=30) as rig:
            worker, gate = rig.worker, rig.gate
            for _ in range(5):
                rig.take()
            gate.let("intents", times=3)
            await eventually(lambda: len(spans(rig)) == 2, "one is written, one is ready")
            assert spans(rig) == [(1, 100), (101, 200)]
            gate.let("readings", "dead_letters")
            await eventually(lambda: spans(rig) == [(101, 200), (201, 300)], "they have moved on")
            await eventually(lambda: worker._pending.rows == ROWS, "the next one has grown")
            await eventually(lambda: "ledger" in gate.tables, "the first is settled")
            assert sorted(gate.tables) == sorted(["intents"] * 3 + ["readings"] * 2 + ["dead_letters", "ledger"])
            assert rig.trunk.marks == []
            gate.let(*COMMIT, times=10)
            await eventually(lambda: rig.trunk.marks == [100, 200, 300, 400, 500], "the receipts, in order")
            assert all(gate.tables.count(table) == 5 for table in COMMIT)

    asyncio.run(run())


def test_no_rows_before_their_intent_no_ledger_before_its_rows_no_receipt_before_the_ledger() -> None:
    async def run() -> None:
        async with working(rows_max=ROWS, age_s_max=30) as rig:
            for _ in range(3):
                rig.take()
            for number in range(1, 4):
                for at, table in enumerate(COMMIT):
                    await rig.begun(table, number)
                    await asyncio.sleep(0.02)
                    for later in COMMIT[at + 1 :]:
                        assert rig.gate.tables.count(later) == number - 1, f"{later} waits for {table}"
                    assert len(rig.trunk.marks) == number - 1
                    rig.gate.let(table)
                await rig.confirmed(number)

    asyncio.run(run())


def test_a_commit_that_is_not_full_goes_on_growing_until_the_writer_is_free() -> None:
    async def run() -> None:
        async with working(rows_max=1000 * ROWS, age_s_max=0) as rig:
            rig.take()
            rig.gate.let("intents", times=2)
            await eventually(lambda: "readings" in rig.gate.tables, "the first is being written")
            for _ in range(5):
                rig.take()
            await eventually(lambda: rig.worker._pending.rows == 5 * ROWS, "five batches are admitted")
            assert rig.worker._ready is None
            rig.gate.let(*COMMIT, times=2)
            await eventually(lambda: rig.trunk.marks == [ROWS, 6 * ROWS], "two receipts")
            assert rig.gate.rows[1] > 4 * rig.gate.rows[0]

    asyncio.run(run())


def test_all_that_is_held_is_counted_and_bounded() -> None:
    async def run() -> None:
        bytes_max = 1024 * 1024
        async with working(rows_max=20 * ROWS, age_s_max=0.1, buffer_bytes_max=bytes_max) as rig:
            worker = rig.worker
            rig.gate.let("intents", times=1000)
            while rig.take():
                await asyncio.sleep(0)
            await eventually(lambda: worker._preparing_bytes == 0, "nothing is being built")
            assert worker._writing is not None
            held = worker._writing.bytes + (worker._ready.bytes if worker._ready else 0)
            rows = worker._writing.intent.ranges[-1][3]
            assert worker._writing.bytes > rows * 65, "a reading takes 65 bytes in a block"
            assert worker._held_bytes == held + worker._pending.bytes
            assert worker._is_full
            assert rig.trunk.marks == []
            paused = rig.trunk.resumed
            rig.gate.let(*COMMIT, times=1000)
            await eventually(lambda: rig.trunk.marks[-1:] == [rig.sent], "all of it, though it was full", 30)
            assert rig.trunk.resumed > paused
            assert worker._held_bytes == 0

    asyncio.run(run())


def test_a_dead_letters_time_is_the_time_of_its_commit() -> None:
    """Recovery finds the rows of an intent by it."""

    async def run() -> None:
        async with working(rows_max=ROWS, age_s_max=30) as rig:
            rig.take()
            rig.gate.let("intents")
            await eventually(lambda: rig.worker._writing is not None, "a commit")
            commit = rig.worker._writing
            assert commit is not None
            assert commit.intent.created_ms > NEW_YEAR_MS - 10 * 365 * 86_400_000
            for _, encoded in commit.inserts:
                _, times = decode(b"".join(encoded.body))["ingested_at"]
                assert set(times) == {commit.intent.created_ms}
            rig.gate.let(*COMMIT)
            await eventually(lambda: rig.trunk.marks == [ROWS], "the receipt")

    asyncio.run(run())

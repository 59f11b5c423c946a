"""The trunk's ends for tests of ingest: a small fake gateway, and a real worker process.

    with Rig.started(tmp_path) as rig, rig.worker() as worker:
        async with rig.gateway("g1") as gateway:
            await gateway.send(gateway.batch(1, 100))
            await gateway.receipt(lambda receipt: receipt.mark == 100)

The fake gateway speaks the contract over our own MQTT connection, but keeps no spool: `deliver` is the part of
an uplink that custody rests on, sending again whatever no receipt covers. Import as `from tests.trunk import …`.
"""

import asyncio
import random
import signal
import subprocess
import sys
import time
from array import array
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from analytics.migrate import migrate
from broker_bridge import contract
from broker_bridge.contract import Hello, Receipt
from broker_bridge.mqtt.client import Connection, Messages, Options
from ingest.clickhouse.client import Client, connect
from telemetry import wire
from telemetry.columns import Columns, Series
from telemetry.errors import FieldlineError
from telemetry.ranges import SeqRanges
from tests.brokers import HOST, Broker, eventually, mosquitto, wait_until
from tests.clickhouse import ROOT, Server, clickhouse

PARTITIONS = 16
NEW_YEAR_MS = 1_767_225_600_000  # 2026
TABLES = ("readings", "dead_letters", "losses", "ledger", "intents", "workers", "gateways")
ASK_S = 0.5


@dataclass
class FakeGateway:
    """One gateway's end of the trunk. `receipts` and `workers` hold what came, in order."""

    name: str
    port: int
    epoch: str = "e1"
    partitions: int = PARTITIONS
    receipts: list[Receipt] = field(default_factory=list)
    workers: list[str] = field(default_factory=list)
    connection: Connection | None = None

    @property
    def partition(self) -> int:
        return contract.partition_of(self.name, self.partitions)

    async def open(self) -> None:
        """Connect and subscribe. Raises FieldlineError."""
        options = Options(HOST, self.port, f"fake-{self.name}", keepalive_s=5)
        connection = await Connection.open(options, self._on_messages)
        self.connection = connection
        await connection.subscribe([contract.receipt_topic(self.name), contract.worker_topic(self.partition)])

    async def close(self) -> None:
        if self.connection is not None:
            await self.connection.close()

    def _on_messages(self, messages: Messages, connection: Connection) -> None:
        for topic, payload in zip(messages.topics, messages.payloads, strict=True):
            if topic == contract.worker_topic(self.partition):
                self.workers.append(payload.decode())
            else:
                self.receipts.append(Receipt.decode(payload))
        connection.ack(messages.packet_ids)

    def batch(self, first: int, count: int, *, name: str | None = None, at_ms: int = NEW_YEAR_MS) -> bytes:
        """A batch of readings, value = seq, one per ms from `at_ms` on."""
        return make_batch(wire.Header(name or self.name, self.epoch, first, count), at_ms)

    async def send(self, payload: bytes, kind: str = "batch", *, partition: int | None = None, qos: int = 1) -> None:
        """Publish; with QoS 1 until the broker has it."""
        await self.publish(
            contract.up_topic(self.partition if partition is None else partition, kind, self.name), payload, qos
        )

    async def publish(self, topic: str, payload: bytes, qos: int = 1) -> None:
        assert self.connection is not None
        await self.connection.publish(topic, payload, qos=qos)

    async def hello(self) -> None:
        await self.send(Hello(self.epoch).encode(), "hello")

    async def receipt(
        self, wanted: Callable[[Receipt], bool], what: str = "a receipt", seconds: float = 20.0
    ) -> Receipt:
        """The first receipt so far, or to come, that is wanted."""
        await eventually(lambda: any(map(wanted, self.receipts)), what, seconds)
        return next(filter(wanted, self.receipts))

    async def answered(self, seconds: float = 20.0) -> Receipt:
        """Say hello until a receipt answers."""
        seen = len(self.receipts)
        deadline_s = time.monotonic() + seconds
        while len(self.receipts) == seen:
            assert time.monotonic() < deadline_s, f"no receipt for {self.name}"
            await self.hello()
            await self._receipts_beyond(seen)
        return self.receipts[-1]

    async def refused(self, payload: bytes, kind: str = "batch", *, partition: int | None = None) -> str:
        """Send what must be refused; the sentence that came back."""
        seen = len(self.receipts)
        await self.send(payload, kind, partition=partition)
        await eventually(lambda: any(r.refused for r in self.receipts[seen:]), "a refusal")
        receipt = next(r for r in self.receipts[seen:] if r.refused)
        assert (receipt.epoch, receipt.mark, receipt.ahead) == ("", 0, ())
        assert receipt.worker
        return receipt.refused

    async def deliver(self, batches: dict[tuple[int, int], bytes], seconds: float = 60.0) -> None:
        """Send the batches, (first, last) -> bytes, again and again until a receipt covers them all.

        Connects again when the connection is gone, as an uplink does.
        """
        deadline_s = time.monotonic() + seconds
        while True:
            assert time.monotonic() < deadline_s, f"{self.name}: not all was confirmed, last {self.receipts[-1:]}"
            try:
                if not (left := await self._left(batches)):
                    return
                seen = len(self.receipts)
                for payload in left:
                    await self.send(payload)
                if await self._covered_within(ASK_S, batches, seen):
                    return
            except FieldlineError:
                await asyncio.sleep(0.1)
                await self._reopen()

    async def _left(self, batches: dict[tuple[int, int], bytes]) -> list[bytes]:
        """Ask, then what the latest receipt does not cover; all when none came."""
        seen = len(self.receipts)
        await self.hello()
        await self._receipts_beyond(seen)
        held = self._held(seen)
        return [payload for (first, last), payload in batches.items() if not held.covers(first, last)]

    def _held(self, seen: int) -> SeqRanges:
        """What the last receipt after the first `seen` says."""
        return next((r.ranges() for r in reversed(self.receipts[seen:]) if r.epoch == self.epoch), SeqRanges())

    async def _covered_within(self, seconds: float, batches: dict[tuple[int, int], bytes], seen: int) -> bool:
        deadline_s = time.monotonic() + seconds
        while not all(self._held(seen).covers(*range_) for range_ in batches):
            if time.monotonic() > deadline_s:
                return False
            await asyncio.sleep(0.01)
        return True

    async def _receipts_beyond(self, seen: int) -> None:
        deadline_s = time.monotonic() + ASK_S
        while len(self.receipts) == seen and time.monotonic() < deadline_s:
            await asyncio.sleep(0.01)

    async def _reopen(self) -> None:
        await self.close()
        try:
            await self.open()
        except FieldlineError:
            return


def make_batch(header: wire.Header, at_ms: int = NEW_YEAR_MS, dictionary: wire.Dictionary | None = None) -> bytes:
    """A batch of readings of three devices, value = seq, one per ms from `at_ms` on."""
    seqs = range(header.first_seq, header.last_seq + 1)
    columns = Columns(
        array("i", [seq % 3 for seq in seqs]),
        array("q", [at_ms + seq for seq in seqs]),
        array("q", [NEW_YEAR_MS + seq for seq in seqs]),
        array("d", map(float, seqs)),
        array("B", bytes(header.count)),
    )
    return wire.encode(header, columns, lambda id_: Series(f"{header.gateway}-d{id_}", "m", "u"), dictionary)


def make_noise(name: str, first: int, count: int) -> bytes:
    """A batch of readings whose values no compression makes smaller."""
    columns = Columns(
        array("i", [0] * count),
        array("q", range(NEW_YEAR_MS + first, NEW_YEAR_MS + first + count)),
        array("q", [NEW_YEAR_MS] * count),
        array("d", random.Random(first).randbytes(8 * count)),
        array("B", bytes(count)),
    )
    return wire.encode(wire.Header(name, "e1", first, count), columns, lambda _: Series(f"{name}-d", "m", "u"))


@dataclass
class WorkerProcess:
    """`fieldline ingest run`, as a process."""

    config: Path
    log: Path
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> "WorkerProcess":
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "fieldline", "ingest", "run", "--config", str(self.config)],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def said(self) -> str:
        """All that it has logged."""
        return self.log.read_text() if self.log.exists() else ""

    def until_said(self, text: str, seconds: float = 20.0) -> None:
        wait_until(lambda: text in self.said or self.has_ended, f"the worker says {text!r}", seconds)
        assert text in self.said, f"the worker ended:\n{self.said}"

    @property
    def has_ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def ended(self, seconds: float = 20.0) -> int:
        """Wait until it has ended by itself; the exit status."""
        assert self.process is not None
        return self.process.wait(seconds)

    def end(self, number: signal.Signals = signal.SIGTERM, seconds: float = 10.0) -> int:
        """Send a signal and wait; SIGKILL when it takes too long. The exit status."""
        process = self.process
        assert process is not None
        if process.poll() is None:
            process.send_signal(number)
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


@dataclass
class Rig:
    """Mosquitto as the trunk's broker and a migrated ClickHouse, for many workers one after the other."""

    folder: Path
    broker: Broker
    server: Server
    client: Client
    workers: int = 0

    @classmethod
    @contextmanager
    def started(cls, folder: Path) -> "Iterator[Rig]":
        with mosquitto(folder) as broker, clickhouse(folder / "ch") as server:
            client = connect(server.url, database="default")
            try:
                migrate(client)
                yield cls(folder, broker, server, client)
            finally:
                client.close()

    def clear(self) -> None:
        """Empty all tables; no worker may run."""
        for table in TABLES:
            self.client.command(f"TRUNCATE TABLE fieldline.{table}")

    def make_worker(self, toml: str = "", *, url: str = "", port: int = 0) -> WorkerProcess:
        """A worker that is not started yet; `toml` are lines for the top of its config."""
        self.workers += 1
        config = self.folder / f"ingest-{self.workers}.toml"
        config.write_text(
            f'clickhouse_url = "{url or self.server.url}"\n{toml}\n[trunk]\nport = {port or self.broker.port}\n'
        )
        return WorkerProcess(config, config.with_suffix(".log"))

    @contextmanager
    def worker(self, toml: str = "") -> Iterator[WorkerProcess]:
        """A worker that is connected to the trunk; killed at the end if it still runs."""
        worker = self.make_worker(toml).start()
        try:
            worker.until_said("Trunk: connected")
            yield worker
        finally:
            kill(worker)

    @asynccontextmanager
    async def gateway(self, name: str, epoch: str = "e1") -> AsyncIterator[FakeGateway]:
        gateway = FakeGateway(name, self.broker.port, epoch)
        await gateway.open()
        try:
            yield gateway
        finally:
            await gateway.close()

    def rows(self, query: str) -> list[tuple[object, ...]]:
        return [tuple(row) for row in self.client.query(query).result_rows]

    def stored(self, gateway: str) -> list[int]:
        """The seqs of the gateway's readings, sorted; a double stands twice."""
        query = "SELECT seq FROM fieldline.readings WHERE gateway = {gateway:String} ORDER BY seq"
        return [seq for (seq,) in self.client.query(query, parameters={"gateway": gateway}).result_rows]

    def assert_accounted(self) -> None:
        """Invariant 9 for all gateways, from the view."""
        wrong = self.rows("SELECT * FROM fieldline.accounting WHERE NOT identity_holds OR uncommitted > 0")
        assert wrong == []


def kill(worker: WorkerProcess) -> None:
    """SIGKILL unless it has ended."""
    if worker.process is not None and worker.process.poll() is None:
        worker.process.kill()
    if worker.process is not None:
        worker.process.wait()

"""What the benches share: a trunk broker, a stand-in for the cloud, a fast publisher, process figures."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import psutil

from broker_bridge import contract
from broker_bridge.contract import Receipt
from broker_bridge.mqtt.client import Connection, Messages, Options
from ingest.decode import decode
from ingest.dictionaries import Dictionaries
from proof.ports import Ports
from proof.stack import Stack, embedded_broker, mosquitto, mosquitto_broker
from telemetry.ranges import SeqRanges


def broker_command(directory: Path, port: int) -> Sequence[str]:
    """Mosquitto where it is installed, else the embedded broker."""
    directory.mkdir(parents=True, exist_ok=True)
    program = mosquitto()
    return mosquitto_broker(program, port, directory) if program else embedded_broker(port)


def stack(directory: Path, ports: Ports, *, gateway_toml: str = "", ingest_toml: str = "") -> Stack:
    """The pipeline, with Mosquitto as both brokers where it is installed; *_toml: the beginnings of its configs."""
    return Stack(
        directory,
        ports,
        device_broker=broker_command(directory, ports.mqtt),
        trunk_broker=broker_command(directory, ports.trunk),
        gateway_toml=gateway_toml,
        ingest_toml=ingest_toml,
    )


def mark(pipeline: Stack) -> int:
    """Up to which seq the agent has a receipt."""
    status = pipeline.spool_status()
    return status.mark if status else 0


@contextlib.asynccontextmanager
async def connected(port: int, client_id: str, **options: object) -> AsyncIterator[Connection]:
    """A connection that receives nothing."""
    connection = await Connection.open(
        Options("127.0.0.1", port, client_id, **options),  # type: ignore[arg-type]
        lambda messages, connection: connection.ack(messages.packet_ids),
    )
    try:
        yield connection
    finally:
        await connection.close()


async def publish_all(connection: Connection, messages: Sequence[tuple[str, bytes]]) -> None:
    """Publish with QoS 1, as many at a time as the connection allows; returns when all are acknowledged."""
    feed = iter(messages)

    async def lane() -> None:
        for topic, payload in feed:
            await connection.publish(topic, payload)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(connection.options.inflight_max):
            tasks.create_task(lane())


class StandInCloud:
    """Answers an agent as ingest would, without storing anything; counts what came up the trunk."""

    def __init__(self) -> None:
        self.wire_bytes = 0
        self.records = 0
        self._dictionaries = Dictionaries()
        self._committed: dict[tuple[str, str], SeqRanges] = {}
        self._connection: Connection | None = None
        self._answers: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def running(self, port: int) -> AsyncIterator["StandInCloud"]:
        options = Options("127.0.0.1", port, "stand-in-cloud", packet_bytes_max=8 * 1024 * 1024)
        self._connection = await Connection.open(options, self._on_messages)
        await self._connection.subscribe([f"{contract.ROOT}/+/+/+"])
        try:
            yield self
        finally:
            await self._connection.close()

    def _on_messages(self, messages: Messages, connection: Connection) -> None:
        for topic, payload in zip(messages.topics, messages.payloads, strict=True):
            _, kind, gateway = contract.split_up_topic(topic)
            if kind == "hello":
                epoch = contract.Hello.decode(payload).epoch
            elif kind == "batch":
                header = decode(payload, gateway, self._dictionaries).header
                epoch = header.epoch
                self.wire_bytes += len(payload)
                self.records += header.count
                self._committed.setdefault((gateway, epoch), SeqRanges()).add(header.first_seq, header.last_seq)
            else:
                continue
            self._answer(gateway, epoch)
        connection.ack(messages.packet_ids)

    def _answer(self, gateway: str, epoch: str) -> None:
        assert self._connection is not None
        committed = self._committed.get((gateway, epoch), SeqRanges())
        receipt = Receipt(epoch, committed.mark, tuple(committed.ahead), "stand-in")
        topic = contract.receipt_topic(gateway)
        task = asyncio.create_task(self._connection.publish(topic, receipt.encode(), qos=0))
        self._answers.add(task)
        task.add_done_callback(self._answers.discard)


class TrunkMeter:
    """Listens to the trunk and counts the batches that go up, and their bytes."""

    def __init__(self) -> None:
        self.batches = 0
        self.bytes = 0

    @contextlib.asynccontextmanager
    async def running(self, port: int) -> AsyncIterator["TrunkMeter"]:
        options = Options("127.0.0.1", port, "trunk-meter", packet_bytes_max=8 * 1024 * 1024)
        connection = await Connection.open(options, self._on_messages)
        try:
            await connection.subscribe([f"{contract.ROOT}/+/batch/+"], qos=0)
            yield self
        finally:
            await connection.close()

    def _on_messages(self, messages: Messages, _connection: Connection) -> None:
        self.batches += len(messages)
        self.bytes += sum(map(len, messages.payloads))


async def warm(pipeline: Stack) -> None:
    """Send one reading all the way. Before its receipt the agent may still be asking what the cloud holds."""
    async with connected(pipeline.ports.mqtt, "bench-warm") as device:
        await device.publish("devices/warm/telemetry", b'{"n":0}')
    await until(lambda: mark(pipeline) >= 1, "the first receipt came")


def cpu_s(pid: int) -> float:
    """User and system seconds of a process, to the nanosecond: its clock as clock_getcpuclockid(3) gives it."""
    return time.clock_gettime(~pid << 3 | 2)


def resident_mb(pid: int) -> float:
    """Resident memory in MB (10^6 bytes)."""
    return psutil.Process(pid).memory_info().rss / 1e6


async def until(condition: Callable[[], bool], what: str, seconds_max: float = 120.0) -> None:
    """Poll a condition (called in a thread). Raises TimeoutError that says `what` did not come about."""
    try:
        async with asyncio.timeout(seconds_max):
            while not await asyncio.to_thread(condition):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise TimeoutError(f"not within {seconds_max:g} s: {what}") from None

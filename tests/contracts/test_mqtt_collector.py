"""The MQTT collector on Mosquitto and on the embedded broker, fed by a foreign client (paho).

Every test runs with MQTT 3.1.1 and with 5. The embedded broker has only 3.1.1: there the version is found out.
"""

import asyncio
import logging
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from broker_bridge.config import Tls
from edge_agent.collect.mqtt import MqttCollector
from edge_agent.config import Mqtt
from proof.ports import free_port
from telemetry.clock import SystemClock
from telemetry.delivery import DURABLE, Chunk, Delivery
from telemetry.errors import ConfigError
from tests.brokers import HOST, Broker, embedded, eventually, make_authority, mosquitto, wait_until

KINDS = {"mosquitto": mosquitto, "embedded": embedded}
version = "auto"


@pytest.fixture(params=["3.1.1", "5"], autouse=True)
def _version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.version", request.param)


@pytest.fixture(params=list(KINDS))
def broker(_version: None, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Broker]:
    if request.param == "embedded" and version == "5":
        monkeypatch.setattr(f"{__name__}.version", "auto")
    with KINDS[request.param]() as running:
        yield running


class Sink:
    """Takes deliveries; settles them at once, or keeps them for the test to settle."""

    def __init__(self, *, settle: bool = True) -> None:
        self.settle = settle
        self.chunks: list[Chunk] = []
        self.settles: list[Callable[[], None]] = []
        self.open = asyncio.Event()
        self.open.set()

    async def deliver(self, delivery: Delivery[Chunk]) -> None:
        await self.open.wait()
        self.chunks.append(delivery.payload)
        self.settles.append(lambda: delivery.settle(DURABLE))
        if self.settle:
            delivery.settle(DURABLE)

    def has_chunks(self, count: int) -> bool:
        return len(self.chunks) == count

    @property
    def payloads(self) -> list[bytes]:
        return [payload for chunk in self.chunks for payload in chunk.payloads]

    @property
    def keys(self) -> list[int]:
        return [key for chunk in self.chunks for key in chunk.keys]

    @property
    def redelivered(self) -> list[bool]:
        return [index in chunk.redelivered for chunk in self.chunks for index in range(len(chunk.topics))]


def make(port: int, limits: dict[str, int] | None = None, **settings: object) -> MqttCollector:
    config = Mqtt.model_validate({"host": HOST, "port": port, "keepalive_s": 5, "version": version} | settings)
    return MqttCollector(config, "gate", SystemClock(), **(limits or {}))


@asynccontextmanager
async def collecting(collector: MqttCollector, sink: Sink, *, wait: bool = True) -> AsyncIterator[None]:
    task = asyncio.create_task(collector.run(sink.deliver))
    try:
        if wait:
            await eventually(lambda: task.done() or "connected as" in collector.state(), "connected")
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@contextmanager
def device(port: int) -> Iterator[Callable[..., None]]:
    """A paho client; calling it publishes with QoS 1 and waits for the PUBACK."""
    client = paho.Client(CallbackAPIVersion.VERSION2)
    client.connect(HOST, port)
    client.loop_start()

    def publish(*payloads: bytes, topic: str = "devices/d1/telemetry", qos: int = 1, retain: bool = False) -> None:
        sent = [client.publish(topic, payload, qos, retain) for payload in payloads]
        for info in sent:
            info.wait_for_publish(20)
            assert info.is_published()

    try:
        yield publish
    finally:
        client.disconnect()
        client.loop_stop()


def publish(port: int, *payloads: bytes, **options: object) -> None:
    with device(port) as send:
        send(*payloads, **options)


def numbered(count: int) -> list[bytes]:
    return [b"%d" % number for number in range(count)]


def test_messages_arrive_in_order_with_their_keys(broker: Broker) -> None:
    async def scenario() -> None:
        sink, collector = Sink(), make(broker.port, topics=["devices/+/telemetry", "other/#"])
        async with collecting(collector, sink):
            await asyncio.to_thread(publish, broker.port, *numbered(1000))
            await asyncio.to_thread(publish, broker.port, b"x", topic="other/a/b")
            await eventually(lambda: len(sink.payloads) == 1001, "all messages")
            state = f"MQTT 127.0.0.1:{broker.port}: connected as fieldline-gate"
            await eventually(lambda: collector.state().startswith(f"{state}, 0 messages"), "all acknowledged")
        assert sink.payloads == [*numbered(1000), b"x"]
        assert sink.chunks[0].topics[0] == "devices/d1/telemetry"
        assert sink.chunks[-1].topics[-1] == "other/a/b"
        assert len(set(sink.keys)) == 1001
        assert sink.keys[-1] >> 16 == crc32(b"x", crc32(b"other/a/b"))
        assert not any(sink.redelivered)

    asyncio.run(scenario())


def test_nothing_is_acknowledged_before_it_is_settled(broker: Broker) -> None:
    async def scenario() -> None:
        first, second, third = Sink(settle=False), Sink(), Sink()
        async with collecting(make(broker.port), first):
            await asyncio.to_thread(publish, broker.port, *numbered(50))
            await eventually(lambda: len(first.payloads) == 50, "all messages")
        for settle in first.settles:
            settle()  # too late, and harmless
        async with collecting(make(broker.port), second):
            await eventually(lambda: len(second.payloads) == 50, "all messages again")
        async with collecting(make(broker.port), third):
            await asyncio.to_thread(publish, broker.port, b"new")
            await eventually(lambda: bool(third.payloads), "the next message")
        assert first.payloads == second.payloads == numbered(50)
        assert third.payloads == [b"new"]

    asyncio.run(scenario())


CRASHING = """
import asyncio, sys
from edge_agent.collect.mqtt import MqttCollector
from edge_agent.config import Mqtt
from telemetry.clock import SystemClock
async def deliver(delivery):
    for key, payload in zip(delivery.payload.keys, delivery.payload.payloads):
        print(key, payload.decode(), flush=True)
collector = MqttCollector(Mqtt(port=int(sys.argv[1]), version=sys.argv[2]), "gate", SystemClock())
asyncio.run(collector.run(deliver))
"""


def test_after_sigkill_mosquitto_redelivers_with_dup_and_the_same_keys() -> None:
    with mosquitto() as broker:
        publish(broker.port)  # it answers
        process = subprocess.Popen(
            [sys.executable, "-c", CRASHING, str(broker.port), version],
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        assert process.stdout
        try:
            wait_until(lambda: "fieldline-gate" in broker.log.read_text(), "the collector connected")
            with device(broker.port) as send:
                send(*numbered(20))
            before = [process.stdout.readline().split() for _ in range(20)]
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait()
            process.stdout.close()

        async def scenario() -> None:
            sink = Sink()
            async with collecting(make(broker.port), sink):
                await asyncio.to_thread(publish, broker.port, b"new")
                await eventually(lambda: len(sink.payloads) == 21, "20 messages again and a new one")
            assert [[str(key), p.decode()] for key, p in zip(sink.keys, sink.payloads, strict=True)][:20] == before
            assert sink.redelivered == [True] * 20 + [False]

        asyncio.run(scenario())


@asynccontextmanager
async def tap(port: int) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A relay to the broker; yields its port and the pieces that the client has sent."""
    sent: list[bytes] = []
    tasks: set[asyncio.Task[None] | None] = set()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, seen: list[bytes]) -> None:
        while data := await reader.read(65536):
            seen.append(data)
            writer.write(data)
        writer.close()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        to_broker = await asyncio.open_connection(HOST, port)
        await asyncio.gather(copy(reader, to_broker[1], sent), copy(to_broker[0], writer, []))
        for end in (writer, to_broker[1]):
            end.close()
            with suppress(ConnectionError):
                await end.wait_closed()

    server = await asyncio.start_server(relay, HOST, 0)
    async with server:
        yield server.sockets[0].getsockname()[1], sent
        await asyncio.gather(*filter(None, tasks))


def test_pubacks_leave_in_order_of_arrival_and_together(broker: Broker) -> None:
    async def scenario() -> None:
        sink = Sink(settle=False)
        async with tap(broker.port) as (port, sent), collecting(make(port), sink):
            with device(broker.port) as send:
                for number in range(4):
                    await asyncio.to_thread(send, b"%d" % number)
                    await eventually(partial(sink.has_chunks, number + 1), "a chunk of its own")
            ids = [key & 0xFFFF for key in sink.keys]
            sent.clear()
            sink.settles[2]()
            sink.settles[1]()
            await asyncio.sleep(0.05)
            assert not any(piece[0] == 0x40 for piece in sent)
            sink.settles[0]()
            sink.settles[3]()
            await eventually(lambda: any(piece[0] == 0x40 for piece in sent), "acknowledged")
            pubacks = [piece for piece in sent if piece[0] == 0x40]
            assert pubacks == [b"".join(b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in ids)]

    asyncio.run(scenario())


def test_while_deliver_blocks_the_broker_keeps_the_rest() -> None:
    chunk_bytes_max = 100_000
    payloads = [b"%06d" % number * 1500 for number in range(2000)]  # 18 MB

    async def scenario(broker: Broker) -> None:
        sink, collector = Sink(), make(broker.port, chunk_bytes_max=chunk_bytes_max)
        sink.open.clear()
        async with collecting(collector, sink):
            await asyncio.to_thread(publish, broker.port, *payloads)
            assert collector._arrivals
            assert chunk_bytes_max < collector._arrivals._waiting_bytes < chunk_bytes_max + 400_000
            assert not sink.chunks
            sink.open.set()
            await eventually(lambda: len(sink.payloads) == len(payloads), "all messages")
        assert sink.payloads == payloads

    with mosquitto() as broker:
        asyncio.run(scenario(broker))


def test_it_reconnects_when_the_broker_comes_back(broker: Broker, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "edge_agent")

    async def scenario() -> None:
        sink, collector = Sink(), make(broker.port)
        async with collecting(collector, sink):
            await asyncio.to_thread(publish, broker.port, b"before")
            await eventually(lambda: sink.payloads == [b"before"], "the first message")
            broker.kill()
            await eventually(lambda: "refuses connections" in collector.state(), "it says what is wrong")
            await asyncio.sleep(1)  # some attempts
            await asyncio.to_thread(broker.start)
            await eventually(lambda: "connected as" in collector.state(), "connected again")
            await asyncio.to_thread(publish, broker.port, b"after")
            await eventually(lambda: sink.payloads == [b"before", b"after"], "the second message")

    asyncio.run(scenario())
    lines = [record.getMessage() for record in caplog.records]
    assert sum("connected as fieldline-gate, new session" in line for line in lines) == 2
    assert sum("refuses connections. Check that it runs" in line for line in lines) == 1
    assert len(lines) == 4, lines


def test_a_retained_message_is_read_once(broker: Broker) -> None:
    async def scenario() -> None:
        sink = Sink()
        await asyncio.to_thread(publish, broker.port, b"retained", retain=True)
        async with collecting(make(broker.port), sink):
            await asyncio.to_thread(publish, broker.port, b"live", retain=True)
            await eventually(lambda: len(sink.payloads) == 2, "both")
        await asyncio.to_thread(publish, broker.port, b"offline", retain=True)
        async with collecting(make(broker.port), sink):
            await asyncio.to_thread(publish, broker.port, b"last")
            await eventually(lambda: b"last" in sink.payloads, "the last")
        assert sink.payloads == [b"retained", b"live", b"offline", b"last"]

    asyncio.run(scenario())


def test_oversized_messages_are_marked_and_acknowledged(broker: Broker) -> None:
    limits = {"packet_bytes_max": 2000, "keep_bytes": 300}

    async def scenario() -> None:
        sink, again = Sink(), Sink()
        async with collecting(make(broker.port, limits), sink):
            await asyncio.to_thread(publish, broker.port, b"small", b"b" * 1_000_000, b"c" * 2000, b"small")
            await eventually(lambda: len(sink.payloads) == 4, "all messages")
        async with collecting(make(broker.port, limits), again):
            await asyncio.to_thread(publish, broker.port, b"next")
            await eventually(lambda: bool(again.payloads), "the next")
        assert sink.payloads == [b"small", b"b" * 300, b"c" * 300, b"small"]
        sizes = [size for chunk in sink.chunks for size in chunk.oversized.values()]
        assert sizes == [1_000_000, 2000]
        assert again.payloads == [b"next"]

    asyncio.run(scenario())


def test_qos_0_has_no_key_on_mosquitto() -> None:
    async def scenario(broker: Broker) -> None:
        sink = Sink()
        async with collecting(make(broker.port), sink):
            await asyncio.to_thread(publish, broker.port, b"sure")
            await asyncio.to_thread(publish, broker.port, b"perhaps", qos=0)
            await eventually(lambda: len(sink.payloads) == 2, "both")
        assert [bool(key) for key in sink.keys] == [True, False]

    with mosquitto() as broker:
        asyncio.run(scenario(broker))


def test_what_is_wrong_is_said_once_and_tried_for_ever(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario(port: int, sentence: str, **settings: Any) -> None:
        collector = make(port, **settings)
        async with collecting(collector, Sink(), wait=False):
            await eventually(lambda: sentence in collector.state(), sentence)
            await asyncio.sleep(0.5)  # some attempts

    with mosquitto(passwords={"gate": "right"}) as broker:
        asyncio.run(scenario(broker.port, "Check username", username="gate", password="wrong"))
    asyncio.run(scenario(free_port(), "refuses connections. Check that it runs"))
    assert len(caplog.records) == 2


def test_password_and_tls_from_files(tmp_path: Path) -> None:
    authority = make_authority(tmp_path)
    (tmp_path / "secret").write_text("right\n")
    tls = Tls(ca_file=authority.ca)
    settings: dict[str, Any] = {"username": "gate", "password_file": tmp_path / "secret", "tls": tls}

    async def scenario(port: int) -> None:
        sink, collector = Sink(), make(port, **settings)
        async with collecting(collector, sink):
            assert "connected as" in collector.state()
        untrusting = make(port, **settings | {"tls": Tls()})
        async with collecting(untrusting, sink, wait=False):
            await eventually(lambda: "not trusted" in untrusting.state(), "the certificate is refused")
        with pytest.raises(ConfigError, match=r"cannot use tls.ca_file .*none.pem: No such file"):
            await make(port, tls=Tls(ca_file=tmp_path / "none.pem")).run(sink.deliver)
        with pytest.raises(ConfigError, match="it must be PEM"):
            await make(port, tls=Tls(ca_file=tmp_path / "secret")).run(sink.deliver)
        mixed = Tls(ca_file=authority.ca, cert_file=authority.cert, key_file=tmp_path / "ca.key")
        with pytest.raises(ConfigError, match=r"cannot use tls.cert_file"):
            await make(port, tls=mixed).run(sink.deliver)

    with mosquitto(tmp_path, tls=authority, passwords={"gate": "right"}) as broker:
        asyncio.run(scenario(broker.port))

"""For tests of the CoAP collector: a running collector, a stage behind it, a device that speaks datagrams."""

import asyncio
import re
import shutil
import socket
import struct
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Self

from edge_agent.collect.coap import CoapCollector
from edge_agent.collect.coap_numbers import Numbers
from edge_agent.collect.coap_oscore import Oscore
from edge_agent.collect.coap_secure import Secure
from edge_agent.collect.oscore_file import load_devices
from edge_agent.commit import GroupCommit
from edge_agent.config import Coap, Collect, GatewayConfig, Spool
from edge_agent.decode import Decoder
from edge_agent.spool import Spool as OpenSpool
from edge_agent.spool import open_spool
from proof.ports import free_port
from telemetry.clock import Clock, SystemClock
from telemetry.columns import Columns, Series
from telemetry.delivery import DURABLE, Chunk, Deliver, Delivery, Outcome

CON, NON, ACK, RST = range(4)
POST, GET, PUT = 2, 1, 3
PATH, BLOCK1, SIZE1, MAX_AGE, BLOCK2, ACCEPT, REQUEST_TAG = 11, 27, 60, 14, 23, 17, 292
OBSERVE, CONTENT_FORMAT = 6, 12
LIBCOAP = next(
    filter(shutil.which, ("coap-client", "coap-client-openssl", "coap-client-gnutls", "coap-client-notls")), ""
)
READING = b'{"ts": 1767225600123, "power": 1830.5}'


class FakeClock:
    """Time that a test owns: true time, by how much the wall clock is wrong, and when the machine booted."""

    def __init__(self) -> None:
        self.ms = 1_767_225_600_000
        self.wrong_ms = 0
        self.booted_s = 0.0

    def now_ms(self) -> int:
        return self.ms + self.wrong_ms

    def monotonic_s(self) -> float:
        return self.ms / 1000 - self.booted_s


class Sink:
    """A decode stage and a spool in memory: settles at once, unless it is told to hold."""

    def __init__(self, *, hold: bool = False) -> None:
        self.ids: dict[Series, int] = {}
        config = GatewayConfig(gateway="g", coap=Coap())
        self.decoder = Decoder(config, lambda series: self.ids.setdefault(series, len(self.ids)))
        self.columns = Columns()
        self.chunks: list[Chunk] = []
        self.held: list[Delivery[Chunk]] = []
        self.hold = hold

    async def deliver(self, delivery: Delivery[Chunk]) -> None:
        self.chunks.append(delivery.payload)
        refused = self.decoder.decode(delivery.payload, self.columns)
        if self.hold:
            self.held.append(delivery)
        else:
            delivery.settle(Outcome(refused) if refused else DURABLE)


async def libcoap(*arguments: str, client: str = LIBCOAP, seconds_max: int = 20) -> str:
    """What libcoap's command-line client prints: nothing when a post succeeds, "no answer" when there is none."""
    assert client, "install libcoap's client (Debian: libcoap3-bin)"
    command = [client, "-v", "6", "-o", "/dev/stderr", "-B", str(seconds_max), *arguments]  # the log on stdout
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(seconds_max + 10):
        log, said = await process.communicate()
    codes = re.findall(rb"(?m)^v:1 t:\w+ c:([2-5]\.\d\d)", log)
    return said.decode() + ("" if codes and codes[-1] != b"2.31" else "no answer")


@asynccontextmanager
async def serving(
    deliver: Deliver,
    clock: Clock | None = None,
    payload_bytes_max: int = 256 * 1024,
    port: int = 0,
    topics: tuple[str, ...] = (),
    knows: Callable[[int], bool] = lambda _key: False,
    secure: Secure | None = None,
    boot_id: bytes | None = b"a boot",
    oscore: Oscore | None = None,
    **settings: object,
) -> AsyncIterator[int]:
    """A running collector's port. Fails the test when anything in its loop failed."""
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
    port = port or free_port()
    config = Coap.model_validate({"bind": "127.0.0.1", "port": port, **settings})
    collector = CoapCollector(config, clock or SystemClock(), payload_bytes_max, topics, knows, boot_id, secure, oscore)
    task = asyncio.create_task(collector.run(deliver))
    try:
        await until(lambda: task.done() or "listening on" in collector.state())
        if task.done():
            await task
        yield port
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert "not listening" in collector.state()
        assert not failures


@asynccontextmanager
async def agent(
    folder: Path,
    port: int,
    clock: Clock | None = None,
    boot_id: bytes | None = b"a boot",
    secure: Secure | None = None,
    oscore_keys: Path | None = None,
    **settings: object,
) -> AsyncIterator[OpenSpool]:
    """Collector, decode stage, group commit and spool, as the agent wires them."""
    clock = clock or SystemClock()
    config = GatewayConfig(gateway="g", coap=Coap(), spool=Spool(path=folder / "spool", free_bytes_min=0))
    spool = open_spool(config.spool, "g", 1000)
    oscore = None
    if oscore_keys is not None:
        oscore = Oscore(load_devices(oscore_keys), Numbers(config.spool.path, clock.now_ms()), spool.knows)
    with ThreadPoolExecutor(1) as thread:
        commit = GroupCommit(spool, Decoder(config, spool.series_id), Collect(), clock, thread)
        committing = asyncio.create_task(commit.run())
        try:
            async with serving(
                commit.deliver,
                clock,
                port=port,
                knows=spool.knows,
                boot_id=boot_id,
                secure=secure,
                oscore=oscore,
                **settings,
            ):
                yield spool
        finally:
            committing.cancel()
            await asyncio.wait([committing])
    spool.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.005)


class Device:
    """A raw UDP endpoint that speaks CoAP datagram by datagram."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.setblocking(False)
        self.sock.connect((host, port))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        self.sock.send(data)

    async def receive(self) -> "Answer":
        async with asyncio.timeout(10):
            return Answer(await asyncio.get_running_loop().sock_recv(self.sock, 65_535))

    async def ask(self, data: bytes) -> "Answer":
        self.send(data)
        return await self.receive()

    def is_silent(self) -> bool:
        try:
            self.sock.recv(65_535)
        except BlockingIOError:
            return True
        return False


class Answer:
    """A received message, taken apart (RFC 7252 3)."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        first, code, self.mid = struct.unpack("!BBH", data[:4])
        self.type, self.code = first >> 4 & 3, f"{code >> 5}.{code & 31:02}"
        self.token = data[4 : 4 + (first & 15)]
        head, _, self.payload = data[4 + (first & 15) :].partition(b"\xff")
        self.options: dict[int, bytes] = {}
        number = at = 0
        while at < len(head):
            delta, length = head[at] >> 4, head[at] & 15
            at += 1
            if delta == 13:
                delta, at = 13 + head[at], at + 1
            number += delta
            self.options[number] = head[at : at + length]
            at += length

    @property
    def text(self) -> str:
        return self.payload.decode()

    def number(self, option: int) -> int:
        return int.from_bytes(self.options[option], "big")


def message(
    path: str = "telemetry/meter-1",
    payload: bytes = READING,
    *,
    code: int = POST,
    mid: int = 1,
    token: bytes = b"t",
    kind: int = CON,
    options: tuple[tuple[int, bytes], ...] = (),
) -> bytes:
    data = struct.pack("!BBH", 0x40 | kind << 4 | len(token), code, mid) + token
    number = 0
    segments = [(PATH, segment.encode()) for segment in path.split("/")] if path else []
    for option, value in sorted([*segments, *options], key=lambda pair: pair[0]):
        data += nibbles(option - number, len(value)) + value
        number = option
    return data + (b"\xff" + payload if payload else b"")


def nibbles(delta: int, length: int) -> bytes:
    small_delta, delta_more = (delta, b"") if delta < 13 else (13, bytes([delta - 13]))
    if delta >= 269:
        small_delta, delta_more = 14, (delta - 269).to_bytes(2, "big")
    small_length, length_more = (length, b"") if length < 13 else (13, bytes([length - 13]))
    return bytes([small_delta << 4 | small_length]) + delta_more + length_more

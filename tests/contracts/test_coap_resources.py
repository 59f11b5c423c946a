"""The CoAP client against a device of raw datagrams, and against a real device process that is killed."""

import asyncio
import json
import logging
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collect.coap_requests import OBSERVE_RESET_S, Order
from edge_agent.collect.coap_resources import CoapResources
from edge_agent.config import CoapResource
from proof.ports import free_port
from telemetry.clock import SystemClock
from telemetry.delivery import DURABLE
from tests.brokers import HOST
from tests.coap import ACK, BLOCK2, CON, CONTENT_FORMAT, NON, OBSERVE, RST, Answer, Sink, message, until

CONTENT, NOT_FOUND = 0x45, 0x84


class Peer:
    """A device as a server, datagram by datagram."""

    def __init__(self) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind((HOST, 0))
        self.sock.setblocking(False)
        self.uri = f"coap://{HOST}:{self.sock.getsockname()[1]}/t"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    async def receive(self) -> Answer:
        async with asyncio.timeout(10):
            data, self.agent = await asyncio.get_running_loop().sock_recvfrom(self.sock, 65_535)
        return Answer(data)

    async def registration(self) -> Answer:
        """The next request, which must be a registration."""
        request = await self.receive()
        assert (request.type, request.code, request.options[OBSERVE]) == (CON, "0.01", b"")
        return request

    def answer(self, request: Answer, payload: bytes, *options: tuple[int, bytes], code: int = CONTENT) -> None:
        self.send(ACK, request.mid, request.token, payload, *options, code=code)

    def send(
        self, kind: int, mid: int, token: bytes, payload: bytes, *options: tuple[int, bytes], code: int = CONTENT
    ) -> None:
        data = message("", payload, code=code, mid=mid, token=token, kind=kind, options=options)
        self.sock.sendto(data, self.agent)

    def is_silent(self) -> bool:
        try:
            self.sock.recv(65_535)
        except BlockingIOError:
            return True
        return False


def number(value: int) -> tuple[int, bytes]:
    """The option of a notification."""
    return OBSERVE, value.to_bytes(3, "big").lstrip(b"\0")


@asynccontextmanager
async def reading(
    sink: Sink, *uris: str, payload_bytes_max: int = 10_000, **settings: object
) -> AsyncIterator[CoapResources]:
    """A running client of these resources; what they say comes as of telemetry/d0, telemetry/d1 …"""
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: failures.append(context))
    resources = [
        CoapResource.model_validate({"uri": uri, "topic": f"telemetry/d{n}", "every_s": 0.05, **settings})
        for n, uri in enumerate(uris)
    ]
    collector = CoapResources(resources, SystemClock(), payload_bytes_max)
    task = asyncio.create_task(collector.run(sink.deliver))
    try:
        yield collector
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()
        assert not failures


def test_a_confirmable_notification_is_acknowledged_only_when_it_is_durable() -> None:
    async def main() -> None:
        sink = Sink(hold=True)
        with Peer() as device:
            async with reading(sink, device.uri):
                request = await device.registration()
                device.answer(request, b'{"n": 1}', number(6))
                await until(lambda: len(sink.held) == 1)
                sink.held[0].settle(DURABLE)
                device.send(CON, 2, request.token, b'{"n": 2}', number(7))
                await until(lambda: len(sink.held) == 2)
                device.send(CON, 2, request.token, b'{"n": 2}', number(7))  # it hears nothing and repeats itself
                device.send(NON, 3, request.token, b'{"n": 3}', number(8))
                await asyncio.sleep(0.05)
                assert device.is_silent()
                sink.held[1].settle(DURABLE)
                answer = await device.receive()
                assert (answer.type, answer.code, answer.mid) == (ACK, "0.00", 2)
                await until(lambda: len(sink.held) == 3)
                sink.held[2].settle(DURABLE)
                await asyncio.sleep(0)
                device.send(CON, 2, request.token, b'{"n": 2}', number(7))  # the acknowledgement was lost
                assert (await device.receive()).mid == 2
        assert list(sink.columns.value) == [1, 2, 3]

    asyncio.run(main())


def test_a_notification_that_was_overtaken_is_acknowledged_and_not_taken() -> None:
    async def main() -> None:
        sink = Sink()
        with Peer() as device:
            async with reading(sink, device.uri):
                request = await device.registration()
                device.answer(request, b'{"n": 1}', number(2**24 - 1))
                for mid, order in enumerate((1, 0, 2**24 - 2, 2)):
                    device.send(CON, mid, request.token, b'{"n": %d}' % (10 + mid), number(order))
                    assert (await device.receive()).mid == mid
                device.send(CON, 9, b"other", b'{"n": 5}', number(3))
                assert (await device.receive()).type == RST
        assert list(sink.columns.value) == [1, 10, 13]

    asyncio.run(main())


@given(st.lists(st.tuples(st.integers(0, 2**24 - 1), st.floats(0, 200)), max_size=20))
def test_the_order_is_that_of_rfc_7641(arrivals: list[tuple[int, float]]) -> None:
    """Word for word, section 3.4."""
    order, now_s = Order(), 0.0
    v1, t1 = None, 0.0
    for v2, pause_s in arrivals:
        now_s += pause_s
        newer = (
            v1 is None or (v1 < v2 and v2 - v1 < 2**23) or (v1 > v2 and v1 - v2 > 2**23) or now_s > t1 + OBSERVE_RESET_S
        )
        assert order.is_newer(v2, now_s) is newer
        if newer:
            v1, t1 = v2, now_s


def test_a_silent_device_is_asked_again_under_the_same_token() -> None:
    async def main() -> None:
        sink = Sink()
        with Peer() as device:
            async with reading(sink, device.uri, silence_s_max=1) as client:
                first = await device.registration()
                device.answer(first, b'{"n": 1}', number(40))
                second = await device.registration()
                assert second.token == first.token
                device.answer(second, b'{"n": 2}', number(3))  # it has started again
                await until(lambda: len(sink.chunks) == 2)
                assert client.state() == "CoAP resources: 1 of 1 answer"
        assert list(sink.columns.value) == [1, 2]

    asyncio.run(main())


def test_a_long_notification_is_read_whole_before_it_is_acknowledged() -> None:
    async def main() -> None:
        sink = Sink()
        body = b'{"a": 1, "b": 2, "c": 3}'
        with Peer() as device:
            async with reading(sink, device.uri):
                request = await device.registration()
                device.answer(request, b'{"a": 0}', number(1))
                device.send(CON, 7, request.token, body[:16], number(2), (BLOCK2, b"\x08"))
                for value, piece in ((b"\x08", body[:16]), (b"\x10", body[16:])):
                    get = await device.receive()
                    assert OBSERVE not in get.options
                    device.answer(get, piece, (BLOCK2, value))
                assert (await device.receive()).mid == 7
        assert sink.chunks[1].payloads == [body]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("payload", "options", "code", "trouble"),
    [
        (b"gone", (), NOT_FOUND, "answers 4.04 Not Found: gone"),
        (b"<a/>", ((CONTENT_FORMAT, b"\x29"),), CONTENT, "says something that cannot be read: Content-Format 41 is"),
        (b"x" * 101, (), CONTENT, "says more than collect.payload_bytes_max, 100 bytes"),
        (b"x" * 16, ((BLOCK2, b"\x10"),), CONTENT, "sends other blocks than it is asked for"),
        (b"x", ((BLOCK2, b"\x08"),), CONTENT, "sends blocks that are not as long as they say"),
        (b"[", (), CONTENT, "says what is not understood: the payload must be a JSON object"),
    ],
)
def test_a_failure_is_said_once_and_asked_again(
    payload: bytes, options: tuple[tuple[int, bytes], ...], code: int, trouble: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        with Peer() as device:
            async with reading(Sink(), device.uri, mode="poll", payload_bytes_max=100) as client:
                assert not client.connected
                for _ in range(3):
                    device.answer(await device.receive(), payload, *options, code=code)
                await device.receive()
                assert client.state().startswith(f"CoAP resources: 0 of 1 answer; {device.uri} {trouble}")
                assert not client.connected

    with caplog.at_level(logging.WARNING, logger="edge_agent"):
        asyncio.run(main())
    (line,) = caplog.messages
    assert trouble in line


@contextmanager
def device(port: int, boot: int) -> Iterator[None]:
    """A real device, killed at the end of the block."""
    process = subprocess.Popen([sys.executable, "-m", "tests.coap_device", str(port), str(boot)])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def test_devices_are_read_again_after_they_were_killed_and_restarted() -> None:
    async def main() -> None:
        sink, port = Sink(), free_port()
        at = f"coap://{HOST}:{port}"
        uris = (f"{at}/counter", f"{at}/static", f"{at}/long", f"coap://{HOST}:{free_port()}/nobody")

        def seen(boot: int) -> list[list[int]]:
            """Of each observed device the values of this boot."""
            said: list[list[int]] = [[], []]
            for chunk in sink.chunks:
                value = json.loads(chunk.payloads[0])
                if value.get("boot") == boot:
                    said[int(chunk.topics[0][-1])].append(value.get("n", 0))
            return said

        async with reading(sink, *uris, silence_s_max=1) as client:
            for boot in (1, 2):
                with device(port, boot):
                    await until(lambda boot=boot: len(seen(boot)[0]) > 10 and len(seen(boot)[1]) > 2)
                    await until(lambda: client.state().startswith("CoAP resources: 3 of 4 answer; coap://"))
                    assert "/nobody cannot be reached" in client.state()
                await until(lambda: client.state().startswith("CoAP resources: 0 of 4 answer"))
            for boot in (1, 2):
                counted = seen(boot)[0]
                assert counted == sorted(set(counted)), "each value once, in order"
        assert any(len(chunk.payloads[0]) > 3000 for chunk in sink.chunks), "a body in blocks"

    asyncio.run(main())

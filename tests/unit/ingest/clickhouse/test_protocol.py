"""Bodies straight into memory: each request gets its own body, however the bytes come, and the next one its own.

A real server and real sockets; the application fills all bodies into memory and answers with their digest.
"""

import asyncio
import hashlib
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.clickhouse import protocol
from ingest.clickhouse.protocol import FILL, Protocol
from tests.brokers import HOST


class App:
    """Answers a body with its digest. `asked`: after how many ASGI messages it asks to be filled."""

    def __init__(self) -> None:
        self.asked = 0
        self.broken = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        left = int(dict(scope["headers"])[b"content-length"])
        body = bytearray()
        for _ in range(self.asked):
            if left:
                data = (await receive())["body"]
                body += data
                left -= len(data)
        memory = bytearray(left)
        try:
            await scope["extensions"][FILL](memoryview(memory))
        except ConnectionError:
            self.broken += 1
            return
        answer = hashlib.sha256(body + memory).hexdigest().encode()
        headers = [(b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer})


@asynccontextmanager
async def serving(app: App) -> AsyncIterator[int]:
    config = uvicorn.Config(app, http=Protocol, lifespan="off", interface="asgi3", log_config=None, ws="none")
    server = uvicorn.Server(config)
    server.config.load()
    server.lifespan = config.lifespan_class(config)
    listener = socket.create_server((HOST, 0))
    await server.startup(sockets=[listener])
    try:
        yield listener.getsockname()[1]
    finally:
        for made in server.servers:
            made.close()
        listener.close()


def request(body: bytes, *lines: str) -> bytes:
    head = "\r\n".join(["POST / HTTP/1.1", "Host: h", f"Content-Length: {len(body)}", *lines])
    return head.encode() + b"\r\n\r\n" + body


async def answers(reader: asyncio.StreamReader, count: int) -> list[bytes]:
    found = []
    for _ in range(count):
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        found.append(await reader.readexactly(64))
    return found


def digests(bodies: list[bytes]) -> list[bytes]:
    return [hashlib.sha256(body).hexdigest().encode() for body in bodies]


bodies_of_a_connection = st.lists(
    st.tuples(st.integers(0, 300_000), st.integers(0, 255)).map(lambda part: bytes([part[1]]) * part[0]),
    min_size=1,
    max_size=4,
)


@settings(deadline=None, max_examples=60)
@given(bodies_of_a_connection, st.lists(st.integers(1, 200_000), max_size=8), st.integers(0, 2))
def test_each_request_gets_its_own_body_however_the_bytes_come(
    bodies: list[bytes], cuts: list[int], asked: int
) -> None:
    """All requests at once, one behind the other, in pieces."""

    async def run() -> None:
        app = App()
        app.asked = asked
        async with serving(app) as port, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(HOST, port)
            stream = b"".join(map(request, bodies))
            for cut in cuts:
                writer.write(stream[:cut])
                stream = stream[cut:]
                await writer.drain()
                await asyncio.sleep(0)
            writer.write(stream)
            assert await answers(reader, len(bodies)) == digests(bodies)
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    asyncio.run(run())


def test_a_client_that_waits_for_leave_to_send_gets_it() -> None:
    async def run() -> None:
        async with serving(App()) as port, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(HOST, port)
            body = b"x" * 100_000
            writer.write(request(body, "Expect: 100-continue").removesuffix(body))
            assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
            writer.write(body)
            assert await answers(reader, 1) == digests([body])
            writer.close()

    asyncio.run(run())


@pytest.mark.parametrize("asked", [0, 1])
def test_a_client_that_goes_away_breaks_its_request_and_no_other(asked: int) -> None:
    async def run() -> None:
        app = App()
        app.asked = asked
        async with serving(app) as port, asyncio.timeout(20):
            _, writer = await asyncio.open_connection(HOST, port)
            writer.write(request(b"x" * 1_000_000)[:-1])
            await writer.drain()
            writer.close()
            reader, other = await asyncio.open_connection(HOST, port)
            other.write(request(b"y"))
            assert await answers(reader, 1) == digests([b"y"])
            while not app.broken:
                await asyncio.sleep(0.01)
            other.close()

    asyncio.run(run())


def test_a_client_that_falls_silent_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(protocol, "IDLE_S_MAX", 0.05)

    async def run() -> None:
        app = App()
        async with serving(app) as port, asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(HOST, port)
            writer.write(request(b"x" * 1_000_000)[:-1])
            with suppress(ConnectionError):
                assert await reader.read() == b"", "the connection is closed"
            assert app.broken == 1
            writer.close()

    asyncio.run(run())

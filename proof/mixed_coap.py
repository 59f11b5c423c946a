"""The mixed devices of the drill that speak CoAP: datagrams of our own, and resources to read.

A poster repeats a message from the same port with the same message id and token until it is answered. RFC 7959
uploads begin anew when the agent says that blocks are missing.
"""

import asyncio
import itertools
import json
import time
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Protocol

from proof.coap_wire import (
    ACK,
    BLOCK1,
    CHANGED,
    CON,
    CONTENT,
    CONTENT_FORMAT,
    CONTINUE,
    GET,
    INCOMPLETE,
    MAX_AGE,
    OBSERVE,
    POST,
    RST,
    UNAVAILABLE,
    URI_PATH,
    Datagram,
    Options,
    decode,
    number,
)
from proof.journal import Journal
from proof.payloads import ENCODERS, Values
from proof.rules import OBSERVED, POLLED

CONTENT_FORMATS = {"json": 50, "cbor": 60, "senml-json": 110}
AGAIN_S = 2.0
BLOCK_EXPONENT, BLOCK_BYTES = 2, 64
NOTIFIED_S_MAX = 10.0


class Udp(asyncio.DatagramProtocol):
    """A socket. Nobody listening is no news: an agent may just be starting."""

    def __init__(self) -> None:
        self.received: asyncio.Queue[tuple[bytes, Any]] = asyncio.Queue()

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.received.put_nowait((data, addr))

    def error_received(self, exc: Exception) -> None:
        pass

    async def receive(self, seconds: float) -> bytes | None:
        """The next datagram; None when none came for so long."""
        try:
            async with asyncio.timeout(seconds):
                return (await self.received.get())[0]
        except TimeoutError:
            return None


class Way(Protocol):
    """How a device reaches the agent. again_s: after how long without an answer it repeats a message."""

    again_s: float

    async def send(self, data: bytes) -> None:
        """A message, or the one before once more."""
        ...

    async def receive(self, seconds: float) -> list[bytes]:
        """What came; nothing after so long."""
        ...


class Clear:
    """A device's way to the agent, unprotected."""

    again_s = AGAIN_S

    def __init__(self, udp: Udp) -> None:
        self._udp = udp

    async def send(self, data: bytes) -> None:
        self._udp.transport.sendto(data)

    async def receive(self, seconds: float) -> list[bytes]:
        """What came; nothing after so long."""
        data = await self._udp.receive(seconds)
        return [] if data is None else [data]


@dataclass(slots=True)
class Poster:
    """A device that posts, one message after another."""

    device: str
    via: str
    fmt: str
    way: Way
    journal: Journal
    in_blocks: bool = False
    _mids: Any = field(default_factory=lambda: itertools.count(1))

    async def run(self, messages: AsyncIterator[tuple[int, Values]]) -> None:
        """Post until the messages end, each until it is acknowledged."""
        async for at_ms, values in messages:
            payload = ENCODERS[self.fmt](at_ms, values)
            while not await self._posted(payload):
                pass
            self.journal.write(self.via, self.device, at_ms, values)

    async def _posted(self, payload: bytes) -> bool:
        """Whether the gateway has taken it; else it is to be posted as a new message."""
        parts = [payload]
        if self.in_blocks:
            parts = [payload[at : at + BLOCK_BYTES] for at in range(0, len(payload), BLOCK_BYTES)]
        for place, part in enumerate(parts):
            block = number(place << 4 | (place < len(parts) - 1) << 3 | BLOCK_EXPONENT)
            answer = await self._exchange(part, ((BLOCK1, block),) if self.in_blocks else ())
            if answer.code == UNAVAILABLE:
                said = dict(answer.options).get(MAX_AGE, b"")
                await asyncio.sleep(int.from_bytes(said) or AGAIN_S)
                return False
            if answer.code == INCOMPLETE:
                return False
            if answer.code == CHANGED:
                return True
            if answer.code != CONTINUE:
                raise RuntimeError(f"{self.device}: {answer.code >> 5}.{answer.code & 31:02} {answer.payload!r}")
        raise RuntimeError(f"{self.device}: the last block was answered 2.31")

    async def _exchange(self, payload: bytes, block: tuple[tuple[int, bytes], ...]) -> Datagram:
        """One confirmable message until its answer (RFC 7252 4.2)."""
        mid = next(self._mids) % 0x10000
        options: Options = ((URI_PATH, b"telemetry"), (URI_PATH, self.device.encode()))
        options += ((CONTENT_FORMAT, number(CONTENT_FORMATS[self.fmt])), *block)
        data = Datagram(CON, POST, mid, b"drill", options, payload).encode()
        loop = asyncio.get_running_loop()
        while True:
            await self.way.send(data)
            until_s = loop.time() + self.way.again_s
            while (left_s := until_s - loop.time()) > 0:
                for answer in map(decode, await self.way.receive(left_s)):
                    if answer.mid == mid and answer.kind == ACK and answer.code:
                        return answer


@dataclass(slots=True)
class Observer:
    """Who registered: under which token, and what it has not acknowledged."""

    address: Any
    token: bytes


class Resources:
    """A device that is a server: one resource that tells by itself, one that is polled.

    A value that has been said is written down before it is sent; an observed one that was acknowledged once more. The
    next notification goes out when the one before was acknowledged (RFC 7641 4.5).
    """

    def __init__(self, udp: Udp, journal: Journal) -> None:
        self._udp, self._journal = udp, journal
        self._observer: Observer | None = None
        self._mids = itertools.count(1)
        self._waiting: deque[tuple[int, int, float]] = deque(maxlen=1)
        self._acknowledged = asyncio.Event()
        self._value = _now_ms(), 0.0
        self._polled = 0, 0.0

    async def run(self, messages: AsyncIterator[tuple[int, Values]]) -> None:
        """Answer and tell until the messages end."""
        async with asyncio.TaskGroup() as tasks:
            answering = tasks.create_task(self._answer())
            async for at_ms, values in messages:
                self._value = at_ms, values["plain"]
                if self._observer is not None:
                    await self._notify(self._observer)
            answering.cancel()

    async def _notify(self, observer: Observer) -> None:
        mid = next(self._mids) % 0x10000
        self._waiting.append((mid, *self._value))
        self._acknowledged.clear()
        data = self._says(OBSERVED, CON, mid, observer.token, observe=mid)
        for _ in range(round(NOTIFIED_S_MAX / AGAIN_S)):
            self._udp.transport.sendto(data, observer.address)
            try:
                async with asyncio.timeout(AGAIN_S):
                    await self._acknowledged.wait()
            except TimeoutError:
                continue
            return
        if self._observer is observer:
            self._observer = None

    def _says(self, device: str, kind: int, mid: int, token: bytes, observe: int | None = None) -> bytes:
        """The value of now, each time another one if it is polled; it is written down."""
        if device == POLLED:
            self._polled = max(self._polled[0] + 1, _now_ms()), self._polled[1] + 1
        at_ms, value = self._polled if device == POLLED else self._value
        via = "CoAP observed" if device == OBSERVED else "CoAP polled"
        self._journal.write(via, device, at_ms, {"plain": value}, "said")
        options: Options = ((OBSERVE, number(observe)),) if observe is not None else ()
        options += ((CONTENT_FORMAT, number(50)), (MAX_AGE, number(2)))
        payload = json.dumps({"ts": at_ms, "plain": value}).encode()
        return Datagram(kind, CONTENT, mid, token, options, payload).encode()

    async def _answer(self) -> None:
        while True:
            data, address = await self._udp.received.get()
            message = decode(data)
            if message.kind in (ACK, RST):
                self._hear(message)
            elif message.code == GET:
                self._give(message, address)

    def _hear(self, message: Datagram) -> None:
        if not self._waiting or self._waiting[0][0] != message.mid:
            return
        _, at_ms, value = self._waiting.popleft()
        if message.kind == ACK:
            self._journal.write("CoAP observed", OBSERVED, at_ms, {"plain": value}, "kept")
        else:
            self._observer = None
        self._acknowledged.set()

    def _give(self, message: Datagram, address: Any) -> None:
        path = b"/".join(value for option, value in message.options if option == URI_PATH).decode()
        observes = dict(message.options).get(OBSERVE)
        if path == OBSERVED and observes == b"":
            self._observer = Observer(address, message.token)
            answer = self._says(path, ACK, message.mid, message.token, observe=next(self._mids) % 0x10000)
        else:
            answer = self._says(POLLED if path == POLLED else OBSERVED, ACK, message.mid, message.token)
        self._udp.transport.sendto(answer, address)


def _now_ms() -> int:
    return time.time_ns() // 1_000_000

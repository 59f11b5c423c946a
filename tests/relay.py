"""A UDP relay for tests that can swallow what comes back, as a lossy radio link does."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

from tests.brokers import HOST

Address = tuple[str, int]


class _Upstream(asyncio.DatagramProtocol):
    def __init__(self, answer: Callable[[bytes], None]) -> None:
        self._answer = answer

    def datagram_received(self, data: bytes, addr: object) -> None:
        self._answer(data)

    def error_received(self, exc: Exception) -> None:
        """Nobody listens at the target now."""


class Relay(asyncio.DatagramProtocol):
    """Each sender gets a port of its own towards the target, so that the target tells senders apart."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._upstream: dict[Address, asyncio.DatagramTransport] = {}
        self.swallow_answers = 0
        """So many answers more are swallowed."""
        self.swallows: Callable[[bytes], bool] = lambda _answer: True
        """Which of them are."""
        self.swallowed = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.DatagramTransport", transport)
        self.port: int = transport.get_extra_info("sockname")[1]
        self._arrived: asyncio.Queue[tuple[Address, bytes]] = asyncio.Queue()

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self._arrived.put_nowait((addr, data))

    async def run(self) -> None:
        """Relay until cancelled."""
        try:
            while True:
                sender, data = await self._arrived.get()
                if sender not in self._upstream:
                    self._upstream[sender] = await self._connect(sender)
                self._upstream[sender].sendto(data)
        finally:
            for transport in (self._transport, *self._upstream.values()):
                transport.close()

    async def _connect(self, sender: Address) -> asyncio.DatagramTransport:
        transport, _ = await asyncio.get_running_loop().create_datagram_endpoint(
            lambda: _Upstream(lambda data: self._answer(data, sender)), remote_addr=(HOST, self._target)
        )
        return transport

    def _answer(self, data: bytes, sender: Address) -> None:
        if self.swallow_answers and self.swallows(data):
            self.swallow_answers -= 1
            self.swallowed += 1
        else:
            self._transport.sendto(data, sender)


@asynccontextmanager
async def relay(target: int) -> AsyncIterator[Relay]:
    """A running relay towards UDP port `target` of 127.0.0.1."""
    _, made = await asyncio.get_running_loop().create_datagram_endpoint(lambda: Relay(target), local_addr=(HOST, 0))
    task = asyncio.create_task(made.run(), name="relay")
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])
        await asyncio.sleep(0)  # the transports close in the next round

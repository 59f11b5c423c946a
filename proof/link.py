"""A TCP proxy that can go bad: the trunk between the gateway and its broker, as the field has it.

`cut` ends the connections and refuses new ones for as long as `is_cut` holds. `delay_s` holds every piece of
data back. While `is_black_hole` holds nothing passes in either direction and no end hears that the other has
closed: half-open connections, as behind a NAT that forgot. What was on its way is dropped with them.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

READ_BYTES = 65_536
CONNECT_S_MAX = 5.0


@dataclass(slots=True)
class Link:
    """Listens on `port` of 127.0.0.1 while in `open`, and connects to `target` there."""

    port: int
    target: int
    is_cut: bool = False
    is_black_hole: bool = False
    delay_s: float = 0.0
    _writers: set[asyncio.StreamWriter] = field(default_factory=set)
    _through: asyncio.Event = field(default_factory=asyncio.Event)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator["Link"]:
        """Forward while the block runs."""
        self._through.set()
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
        try:
            yield self
        finally:
            server.close()
            self.cut()
            await server.wait_closed()

    def cut(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()

    def black_hole(self) -> None:
        """Let nothing through any more."""
        self.is_black_hole = True
        self._through.clear()

    def restore(self) -> None:
        """Work again; connections that were caught in a black hole are reset."""
        if self.is_black_hole:
            self.cut()
        self.is_cut = self.is_black_hole = False
        self.delay_s = 0.0
        self._through.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.is_cut:
            writer.transport.abort()
            return
        try:
            async with asyncio.timeout(CONNECT_S_MAX):
                await self._through.wait()
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, far_writer}
        self._writers |= ends
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._forward(reader, far_writer))
                tasks.create_task(self._forward(far_reader, writer))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._through.wait()
                writer.write(data)
                await writer.drain()
            await self._through.wait()
        writer.transport.abort()

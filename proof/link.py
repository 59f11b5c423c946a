"""A TCP proxy that can go bad: what lies between two parts, as the field has it.

With `is_cut` the connections end and new ones are refused. `delay_s` holds every piece of data back. With
`is_black_hole` nothing passes in either direction and no end hears that the other has closed: half-open
connections, as behind a NAT that forgot; what was on its way is dropped with them. `loses_words` drops what the side
that connected says, `loses_answers` what the other one answers; in the end such connections are reset.
A `tap` hears both directions of a connection.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

READ_BYTES = 65_536
CONNECT_S_MAX = 5.0


class Tap(Protocol):
    """Hears one connection; what it hears has been passed on."""

    def words(self, data: bytes) -> None:
        """From the side that connected."""
        ...

    def answers(self, data: bytes) -> None:
        """From the other side."""
        ...


class _Deaf:
    def words(self, data: bytes) -> None:
        pass

    answers = words


@dataclass(slots=True)
class Link:
    """Listens on `port` of 127.0.0.1 while in `open`, and connects to `target` there. tap: one per connection."""

    port: int
    target: int
    tap: Callable[[], Tap] = _Deaf
    is_cut: bool = False
    is_black_hole: bool = False
    loses_words: bool = False
    loses_answers: bool = False
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

    @contextlib.contextmanager
    def bad(
        self,
        *,
        is_cut: bool = False,
        is_black_hole: bool = False,
        loses_words: bool = False,
        loses_answers: bool = False,
        delay_s: float = 0.0,
    ) -> Iterator[None]:
        """Bad in this way while the block runs."""
        self.is_cut, self.is_black_hole, self.delay_s = is_cut, is_black_hole, delay_s
        self.loses_words, self.loses_answers = loses_words, loses_answers
        if is_cut:
            self.cut()
        if is_black_hole:
            self._through.clear()
        try:
            yield
        finally:
            self.restore()

    def cut(self) -> None:
        """End all connections."""
        for writer in self._writers:
            writer.transport.abort()

    def restore(self) -> None:
        """Work again; connections that were caught in a black hole, or have lost something, are reset."""
        if self.is_black_hole or self.loses_words or self.loses_answers:
            self.cut()
        self.is_cut = self.is_black_hole = self.loses_words = self.loses_answers = False
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
        tap = self.tap()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._forward(reader, far_writer, tap.words, lambda: self.loses_words))
                tasks.create_task(self._forward(far_reader, writer, tap.answers, lambda: self.loses_answers))
        finally:
            self._writers -= ends
            for end in ends:
                end.transport.abort()

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        hear: Callable[[bytes], None],
        loses: Callable[[], bool],
    ) -> None:
        has_lost = False
        with contextlib.suppress(OSError):
            while data := await reader.read(READ_BYTES):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._through.wait()
                has_lost = has_lost or loses()
                if has_lost:  # to the end of the connection: a stream has no holes
                    continue
                hear(data)
                writer.write(data)
                await writer.drain()
            await self._through.wait()
        writer.transport.abort()

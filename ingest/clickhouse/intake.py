"""Receives a request's body: a query's text, or an INSERT's data, which goes where the engine can read it as a file.

The text is the URL's `query`, then the body, as one. When it is an INSERT, everything after its FORMAT clause
or VALUES is data (spill.py: in memory, or on disk), undecoded; the engine reads it once all of it has arrived, so
a client that goes away in mid body has inserted nothing. Memory per request: the text (`TEXT_BYTES_MAX`), or the
head of an INSERT (`HEAD_BYTES_MAX`) and one piece of the data (1 MiB), beside what spill.py allows for all.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO, Any

from ingest.clickhouse.coding import NOT_CODED, Decoder
from ingest.clickhouse.frames import FrameDecoder
from ingest.clickhouse.protocol import IDLE_S_MAX, Fill
from ingest.clickhouse.spill import Spill
from ingest.clickhouse.statement import Insert, Statement, StatementError, keyword, parse

HEAD_BYTES_MAX = 256 * 1024  # as ClickHouse's max_query_size
TEXT_BYTES_MAX = 8 * 1024**2
INSERT_BYTES_MAX = 16 * 1024**3
_PIECE_BYTES = 1024**2
_SHORT_TEXT_BYTES = 64 * 1024  # longer ones are parsed beside the event loop

Receive = Callable[[], Awaitable[Any]]


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete, or stopped sending."""


@dataclass(frozen=True, slots=True)
class Work:
    """A whole request: the statement, its text, and the INSERT's data where there is any."""

    statement: Statement | Insert
    text: bytes
    data: Path | None
    in_memory: bool = False


class Body:
    """A request's body, read once: `pieces` are decoded; `fill` takes all that is left of one that is not coded.

    left: how many bytes are still to come, if the client has said how many there are. frames: for decompress=1.
    """

    def __init__(
        self,
        receive: Receive,
        coding: str = "",
        left: int | None = None,
        fill: Fill | None = None,
        frames: FrameDecoder | None = None,
    ) -> None:
        self.left = left if coding in NOT_CODED and frames is None else None
        self.pieces = self._read(receive, [Decoder(coding), *([frames] if frames else [])])
        self._fill = fill

    @property
    def can_fill(self) -> bool:
        return self._fill is not None and self.left is not None

    async def fill(self, memory: memoryview) -> None:
        """All of `left` at once. Raises ClientGoneError."""
        assert self._fill is not None
        try:
            await self._fill(memory)
        except ConnectionError as error:
            raise ClientGoneError from error

    async def _read(self, receive: Receive, decoders: Sequence[Decoder | FrameDecoder]) -> AsyncIterator[bytes]:
        more = True
        while more:
            try:
                async with asyncio.timeout(IDLE_S_MAX):
                    message = await receive()
            except TimeoutError as error:
                raise ClientGoneError from error
            if message["type"] != "http.request":
                raise ClientGoneError
            more = message.get("more_body", False)
            data = message.get("body", b"")
            if self.left is not None:
                self.left -= len(data)
            pieces: Iterable[bytes] = (data,)
            for decoder in decoders:
                pieces = chain.from_iterable(map(decoder.feed, pieces))
            for piece in pieces:
                if piece:
                    yield piece
        for decoder in decoders:
            decoder.end()


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    """All of a body that must be short. Raises ClientGoneError and StatementError."""
    text = bytearray()
    async for piece in pieces:
        text += piece
        _check_length(text)
    return bytes(text)


async def take(query: bytes, body: Body, spill: Spill | None, stack: ExitStack) -> Work:
    """Read a whole request; its data stays where `spill` has put it until the stack ends. None: it may bring none.

    Raises ClientGoneError and StatementError.
    """
    if query:
        statement = await _parse(query)
        if isinstance(statement, Insert):
            return await _with_data(statement, query, body, spill, stack)
    text = bytearray(query + b"\n" if query else b"")
    async for piece in body.pieces:
        if not text and (insert := _insert_in(piece)):
            return await _with_data(insert, piece, body, spill, stack)
        text += piece
        _check_length(text)
        if len(text) >= HEAD_BYTES_MAX and keyword(bytes(text[:1024])) == b"INSERT":
            break
    statement = await _parse(bytes(text))
    if isinstance(statement, Insert):
        return await _with_data(statement, bytes(text), body, spill, stack)
    async for piece in body.pieces:  # an INSERT ... SELECT with a text longer than the head
        text += piece
        _check_length(text)
    if not statement.keyword:
        raise StatementError(62, "SYNTAX_ERROR", "Syntax error: Empty query")
    return Work(await _parse(bytes(text)), bytes(text), None)


async def _parse(text: bytes) -> Statement | Insert:
    if len(text) < _SHORT_TEXT_BYTES:
        return parse(text)
    return await asyncio.to_thread(parse, text)


def _insert_in(piece: bytes) -> Insert | None:
    """The INSERT at the beginning of a body's first piece, if it is whole. Two bytes of its data show that it is."""
    if keyword(piece[:1024]) != b"INSERT":
        return None
    statement = parse(piece[:_SHORT_TEXT_BYTES])
    return statement if isinstance(statement, Insert) and statement.data_at + 2 <= len(piece) else None


def _check_length(text: bytearray) -> None:
    if len(text) > TEXT_BYTES_MAX:
        raise StatementError(62, "SYNTAX_ERROR", f"Max query size exceeded: {TEXT_BYTES_MAX} bytes")


async def _with_data(statement: Insert, text: bytes, body: Body, spill: Spill | None, stack: ExitStack) -> Work:
    if spill is None:
        async for _ in body.pieces:  # a client that still sends would not see the refusal
            pass
        raise StatementError(497, "ACCESS_DENIED", "Not enough privileges: this role may not INSERT.")
    start = text[statement.data_at :]
    if body.can_fill:
        assert body.left is not None
        total = len(start) + body.left
        slot = stack.enter_context(spill.slot(total))
        if slot is not None:
            memory = slot.cut(total)
            memory[: len(start)] = start
            await body.fill(memory[len(start) :])
            return Work(statement, text, slot.path, in_memory=True)
    file = stack.enter_context(spill.file())
    await _write_all(start, body.pieces, file)
    return Work(statement, text, Path(file.name))


async def _write_all(start: bytes, pieces: AsyncIterator[bytes], file: IO[bytes]) -> None:
    waiting = [start]
    waiting_bytes, total = len(start), len(start)
    async for piece in pieces:
        waiting.append(piece)
        waiting_bytes += len(piece)
        total += len(piece)
        if total > INSERT_BYTES_MAX:
            raise StatementError(
                241, "MEMORY_LIMIT_EXCEEDED", f"An INSERT may bring {INSERT_BYTES_MAX} bytes; send several."
            )
        if waiting_bytes >= _PIECE_BYTES:
            await asyncio.to_thread(_write, file, waiting)
            waiting, waiting_bytes = [], 0
    _write(file, waiting)


def _write(file: IO[bytes], pieces: list[bytes]) -> None:
    data = memoryview(b"".join(pieces))
    while data:
        data = data[file.write(data) :]

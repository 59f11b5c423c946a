"""Receives a request's body: a query's text into memory, an INSERT's data into a file.

The text is the URL's `query`, then the body, as one. When it is an INSERT, everything after its FORMAT clause
or VALUES goes to a file in the spill directory, undecoded; the engine reads it from there once all of it has
arrived, so a client that goes away in mid body has inserted nothing. Memory per request: the text
(`TEXT_BYTES_MAX`), or the head of an INSERT (`HEAD_BYTES_MAX`) and one piece of the data (1 MiB).
"""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.parser import BytesParser
from pathlib import Path
from typing import IO, Any

from ingest.clickhouse.coding import Decoder
from ingest.clickhouse.statement import Insert, Statement, StatementError, keyword, parse

HEAD_BYTES_MAX = 256 * 1024  # as ClickHouse's max_query_size
TEXT_BYTES_MAX = 8 * 1024**2
INSERT_BYTES_MAX = 16 * 1024**3
_PIECE_BYTES = 1024**2
_SHORT_TEXT_BYTES = 64 * 1024  # longer ones are parsed beside the event loop
IDLE_S_MAX = 60.0

Receive = Callable[[], Awaitable[Any]]


class ClientGoneError(Exception):
    """The client closed the connection before its request was complete, or stopped sending."""


@dataclass(frozen=True, slots=True)
class Work:
    """A whole request: the statement, its text, and the INSERT's data where there is any."""

    statement: Statement | Insert
    text: bytes
    data: Path | None
    data_bytes: int = 0


class Spill:
    """A private directory of files that live as long as their request."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> None:
        """Make the directory; remove what a killed server left in it."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        for left in self.path.iterdir():
            left.unlink()

    @contextmanager
    def file(self) -> Iterator[IO[bytes]]:
        """A new file, removed at the end."""
        path = self.path / f"{uuid.uuid4().hex}.data"
        try:
            with path.open("xb", buffering=0) as file:
                yield file
        finally:
            path.unlink(missing_ok=True)


async def body(receive: Receive, decoder: Decoder) -> AsyncIterator[bytes]:
    """The decoded body in pieces. Raises ClientGoneError."""
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
        for piece in decoder.feed(message.get("body", b"")):
            if piece:
                yield piece
    decoder.end()


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    """All of a body that must be short. Raises ClientGoneError and StatementError."""
    text = bytearray()
    async for piece in pieces:
        text += piece
        _check_length(text)
    return bytes(text)


async def take(query: bytes, pieces: AsyncIterator[bytes], new_file: Callable[[], IO[bytes]]) -> Work:
    """Read a whole request; data goes to a new file. Raises ClientGoneError and StatementError."""
    if query:
        statement = await _parse(query)
        if isinstance(statement, Insert):
            return await _with_data(statement, query, pieces, new_file())
    text = bytearray(query + b"\n" if query else b"")
    async for piece in pieces:
        text += piece
        _check_length(text)
        if len(text) >= HEAD_BYTES_MAX and keyword(bytes(text[:1024])) == b"INSERT":
            break
    statement = await _parse(bytes(text))
    if isinstance(statement, Insert):
        return await _with_data(statement, bytes(text), pieces, new_file())
    async for piece in pieces:  # an INSERT ... SELECT with a text longer than the head
        text += piece
        _check_length(text)
    if not statement.keyword:
        raise StatementError(62, "SYNTAX_ERROR", "Syntax error: Empty query")
    return Work(await _parse(bytes(text)), bytes(text), None)


async def _parse(text: bytes) -> Statement | Insert:
    if len(text) < _SHORT_TEXT_BYTES:
        return parse(text)
    return await asyncio.to_thread(parse, text)


def _check_length(text: bytearray) -> None:
    if len(text) > TEXT_BYTES_MAX:
        raise StatementError(62, "SYNTAX_ERROR", f"Max query size exceeded: {TEXT_BYTES_MAX} bytes")


async def _with_data(statement: Insert, text: bytes, pieces: AsyncIterator[bytes], file: IO[bytes]) -> Work:
    start = text[statement.data_at :]
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
    return Work(statement, text, Path(file.name), total)


def _write(file: IO[bytes], pieces: list[bytes]) -> None:
    data = memoryview(b"".join(pieces))
    while data:
        data = data[file.write(data) :]


def form_fields(content_type: str, data: bytes) -> dict[str, str]:
    """The plain fields of a multipart/form-data body (RFC 7578). Raises StatementError for a file in it."""
    head = f"Content-Type: {content_type}\r\n\r\n".encode()
    parsed = BytesParser().parsebytes(head + data)
    fields: dict[str, str] = {}
    for part in parsed.get_payload() if parsed.is_multipart() else []:
        assert not isinstance(part, str)
        name = part.get_param("name", header="content-disposition")
        if part.get_filename() is not None or not isinstance(name, str):
            raise StatementError(
                48,
                "NOT_IMPLEMENTED",
                "External data tables are not supported by this server. Insert them into a table.",
            )
        payload = part.get_payload(decode=True)
        assert isinstance(payload, bytes)
        fields[name] = payload.decode(errors="surrogateescape")
    return fields

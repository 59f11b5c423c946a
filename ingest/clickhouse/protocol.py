"""uvicorn's HTTP/1.1 protocol with two additions: a bounded head, and bodies that go straight into memory.

By ASGI a body comes in pieces that have been copied four times. An application that knows where the rest of a body
is to go can have it filled in there instead, by the scope's extension FILL: the bytes are received from the socket
into that memory, past parser and ASGI.
"""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

HEAD_BYTES_MAX = 1024**2
IDLE_S_MAX = 60.0
FILL = "fieldline.fill"

Fill = Callable[[memoryview], Awaitable[None]]
"""Receive what is left of the body; the memory must be just as long. Raises ConnectionError when the client goes away
before that, or sends nothing for IDLE_S_MAX."""


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes = 0

    def data_received(self, data: bytes) -> None:
        self._head_bytes += len(data)
        if self._head_bytes > HEAD_BYTES_MAX + len(data):
            self.send_400_response(f"The request's head exceeds {HEAD_BYTES_MAX} bytes. Send the query in the body.")
            return
        super().data_received(data)

    def on_headers_complete(self) -> None:
        self._head_bytes = -(2**63)  # the body follows: no limit here
        super().on_headers_complete()
        self.scope["extensions"] = {FILL: partial(self._fill, self.cycle)}  # type: ignore[dict-item]  # not a dictionary

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        super().on_message_complete()

    async def _fill(self, cycle: RequestResponseCycle, memory: memoryview) -> None:
        held = len(cycle.body)
        memory[:held] = cycle.body
        cycle.body = bytearray()
        if held == len(memory):
            return
        if cycle.disconnected:
            raise ConnectionError
        if cycle.waiting_for_100_continue:
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        filler = _Filler(self, memory[held:])
        self.transport.set_protocol(filler)
        self.flow.resume_reading()
        try:
            await filler.until_full()
        finally:
            if not filler.is_full:
                self.transport.abort()

    def body_is_filled(self) -> None:
        """All of it has come past the parser, which would wait for it for ever."""
        self.transport.set_protocol(self)
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self.on_message_complete()


class _Filler(asyncio.BufferedProtocol):
    """In place of a connection's protocol while a body is received into memory."""

    def __init__(self, owner: Protocol, memory: memoryview) -> None:
        self._owner = owner
        self._left = memory
        self._end = owner.loop.create_future()

    @property
    def is_full(self) -> bool:
        return not self._left

    async def until_full(self) -> None:
        left = 0
        while not self._end.done():
            if left == (left := len(self._left)):
                raise ConnectionError
            await asyncio.wait([self._end], timeout=IDLE_S_MAX)
        if not self.is_full:
            raise ConnectionError

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return self._left

    def buffer_updated(self, nbytes: int) -> None:
        self._left = self._left[nbytes:]
        if self.is_full:
            self._owner.body_is_filled()
            self._end.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        self._owner.connection_lost(exc)
        if not self._end.done():
            self._end.set_result(None)

    def pause_writing(self) -> None:
        self._owner.pause_writing()

    def resume_writing(self) -> None:
        self._owner.resume_writing()

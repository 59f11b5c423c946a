"""The sending half of a request, over ASGI."""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
Headers = list[tuple[str, str]]


class Answerer:
    """`known`: headers that every answer carries, also a refusal. `framed`: a refusal is packed, too (frames.py).
    `before_end`: what must be over before the client has the whole answer, because its next request may follow at
    once.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self.known: Headers = []
        self.begun = False
        self.framed = False
        self.before_end: list[Callable[[], object]] = []

    async def begin(self, status: int, headers: Headers) -> None:
        self.begun = True
        raw = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
        await self._send({"type": "http.response.start", "status": status, "headers": raw})

    async def more(self, data: bytes) -> None:
        if data:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def end(self) -> None:
        self._clear()
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    async def whole(self, status: int, headers: Headers, data: bytes) -> None:
        self._clear()
        await self.begin(status, [*headers, ("Content-Length", str(len(data)))])
        await self._send({"type": "http.response.body", "body": data, "more_body": False})

    def _clear(self) -> None:
        while self.before_end:
            self.before_end.pop()()

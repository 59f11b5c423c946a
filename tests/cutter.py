"""A proxy before ClickHouse that knows requests: it cuts or holds them at a chosen point of a chosen statement.

    with Cutter(server.port) as cutter:
        cutter.rule = lambda statement: "sent" if "readings" in statement else "pass"

The statement is the request's `query` parameter, or its body when there is none. Points:
  pass         nothing happens
  unsent       cut before ClickHouse gets a byte
  half sent    … when it has half of the request
  sent         … when it has all of it, and nobody reads the answer
  answered     … after its answer, of which the client gets nothing
  half answer  … after half of the answer went to the client
  hold         wait in `held` until `release` is called, then pass
"""

import contextlib
import re
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Literal, Self
from urllib.parse import parse_qs, urlsplit

from tests.brokers import HOST

Point = Literal["pass", "unsent", "half sent", "sent", "answered", "half answer", "hold"]
CUTS: tuple[Point, ...] = ("unsent", "half sent", "sent", "answered", "half answer")

READ_BYTES = 65536
HOLD_S_MAX = 60.0


class Cutter:
    """Listens on `port` while in its context. `statements` holds all that came, in order."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.rule: Callable[[str], Point] = lambda _: "pass"
        self.statements: list[str] = []
        self.held = threading.Event()
        self._go = threading.Event()
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._ends: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
        for end in (self._listener, *self._ends):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join()

    def release(self) -> None:
        """Let the held request, and all that would be held, pass."""
        self._go.set()

    def once(self, part: str, point: Point) -> threading.Event:
        """A rule for the first statement with `part` in it; the event says that it has come."""
        came = threading.Event()

        def rule(statement: str) -> Point:
            if part not in statement or came.is_set():
                return "pass"
            came.set()
            return point

        self.rule = rule
        return came

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._ends.append(client)
                self._threads.append(threading.Thread(target=self._serve, args=(client,)))
                self._threads[-1].start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError, EOFError), socket.create_connection((HOST, self.target)) as server:
            self._ends.append(server)
            while True:
                request = _message(client)
                statement = _statement(request)
                self.statements.append(statement)
                if not self._exchange(client, server, request, self.rule(statement)):
                    return

    def _exchange(self, client: socket.socket, server: socket.socket, request: bytes, point: Point) -> bool:
        """One request and its answer; False when the connection was cut."""
        if point == "hold":
            self.held.set()
            self._go.wait(HOLD_S_MAX)
        if point in ("unsent", "half sent"):
            server.sendall(request[: len(request) // 2 if point == "half sent" else 0])
            return False
        server.sendall(request)
        if point == "sent":
            return False
        answer = _message(server)
        if point == "answered":
            return False
        client.sendall(answer if point != "half answer" else answer[: len(answer) // 2])
        return point != "half answer"


def _message(end: socket.socket) -> bytes:
    """One HTTP/1.1 message with its body (RFC 9112, 6). Raises EOFError."""
    data = bytearray()
    while (head_end := data.find(b"\r\n\r\n")) < 0:
        data += _more(end)
    head = bytes(data[:head_end]).lower()
    body_at = head_end + 4
    if b"\r\ntransfer-encoding: chunked" in head:
        while not _is_whole(data, body_at):
            data += _more(end)
        return bytes(data)
    length = re.search(rb"\r\ncontent-length: *([0-9]+)", head)
    whole = body_at + (int(length[1]) if length else 0)
    while len(data) < whole:
        data += _more(end)
    return bytes(data)


def _is_whole(data: bytearray, at: int) -> bool:
    """Whether the chunked body from `at` on has its last chunk."""
    while (line_end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line_end].split(b";")[0], 16)
        at = line_end + 2 + size + 2
        if size == 0:
            return len(data) >= at
    return False


def _more(end: socket.socket) -> bytes:
    if not (data := end.recv(READ_BYTES)):
        raise EOFError
    return data


def _statement(request: bytes) -> str:
    head, body = request.split(b"\r\n\r\n", 1)
    target = head.split(b" ", 2)[1].decode()
    return parse_qs(urlsplit(target).query).get("query", [body.decode(errors="replace")])[0]

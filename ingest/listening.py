"""What the HTTP servers of this project share: how they take their address, and a uvicorn that leaves signals to us.

Loads neither the engine nor a web framework.
"""

import contextlib
import socket
from collections.abc import Iterator

import uvicorn

from telemetry.errors import FieldlineError


class Server(uvicorn.Server):
    """Says when it listens. uvicorn by itself would end the process by the signal that stopped it."""

    def __init__(self, config: uvicorn.Config, said: str) -> None:
        super().__init__(config)
        self._said = said

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Also print the line."""
        await super().startup(sockets)
        print(self._said, flush=True)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Catch none."""
        yield


def bind(who: str, host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises FieldlineError, a sentence that begins with `who`."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # with the protocol named, asyncio switches Nagle's algorithm off: 40 ms less for a small answer
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(1)  # or a second server would bind, too, while the first one loads
    except OSError as error:
        raise FieldlineError(
            f"{who} cannot listen on {host}:{port}: {error.strerror}."
            " Stop what uses the port, or choose another --port."
        ) from error
    return listener

"""CoAP over DTLS (coaps, RFC 7252 9.1): aiocoap's message layer on the sessions of `coap_dtls` and a UDP socket.

A device is its session: message ids are told apart per session (RFC 7252 9.1.1), so a device that restarts may begin
with the ids that it had. The key that survives a crash of the agent has the device's address instead
(`coap_keys`): sessions do not survive it. Datagrams that are not DTLS, and plaintext that is not CoAP, are ignored.
"""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any, cast

from aiocoap.interfaces import EndpointAddress
from aiocoap.message import Direction, Message
from aiocoap.numbers.constants import MAX_REGULAR_BLOCK_SIZE_EXP
from aiocoap.protocol import Context
from aiocoap.tokenmanager import TokenManager

from edge_agent.collect.coap_dtls import Session, Sessions
from edge_agent.collect.coap_endpoint import Messages, Recent, Site, bind, open_endpoint
from edge_agent.collect.psk_file import load_keys
from edge_agent.config import Dtls

log = logging.getLogger(__name__)


class Peer(EndpointAddress):  # type: ignore[misc]  # aiocoap has no annotations
    """A device in a session, as aiocoap takes a remote."""

    scheme = "coaps"
    is_multicast = is_multicast_locally = False
    maximum_block_size_exp = MAX_REGULAR_BLOCK_SIZE_EXP
    hostinfo_local = uri_base_local = ""

    def __init__(self, session: Session) -> None:
        host, port, _, scope = session.address
        self.session = session
        self.sockaddr = (f"{host} session {session.number}", port, 0, scope)

    @property
    def hostinfo(self) -> str:
        host, port, *_ = self.session.address
        return f"[{host}]:{port}"

    @property
    def blockwise_key(self) -> Any:
        return self.sockaddr

    def __hash__(self) -> int:
        return hash(self.session.number)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Peer) and other.session is self.session

    @property
    def uri_base(self) -> str:
        return f"coaps://{self.hostinfo}"


class _Endpoint(asyncio.DatagramProtocol):
    """What aiocoap calls a message interface."""

    def __init__(self, sessions: Sessions, messages: Any) -> None:
        self._sessions = sessions
        self._messages = messages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        received = self._sessions.receive(data, addr, self.transport.sendto)
        if received is not None:
            session, said = received
            for plaintext in said:
                self._dispatch(plaintext, Peer(session))

    def _dispatch(self, plaintext: bytes, peer: Peer) -> None:
        try:
            message = Message.decode(plaintext, peer)
        except Exception as error:  # noqa: BLE001 - a parser's outermost edge; RFC 7252 4.2: silently ignore
            log.debug("Ignoring %d bytes from %s that are not CoAP: %r", len(plaintext), peer.hostinfo, error)
            return
        message.direction = Direction.INCOMING
        self._messages.dispatch_message(message)

    def send(self, message: Any) -> None:
        self._sessions.write(message.remote.session, message.encode(), self.transport.sendto)

    async def recognize_remote(self, _remote: Any) -> bool:
        return False

    async def determine_remote(self, _request: Any) -> None:
        return None

    async def shutdown(self) -> None:
        self._sessions.close(self.transport.sendto)
        self.transport.close()


class Secure:
    """The secure half of the CoAP server. Raises ConfigError for keys that cannot be used."""

    def __init__(self, config: Dtls, host: str) -> None:
        self._config = config
        self._host = host
        self._sessions = Sessions(load_keys(config.psk_file), config.sessions_max)

    async def listen(self, site: Site, recent: Recent, monotonic_s: Callable[[], float]) -> Context:
        """Serve `site` until the context is shut down. Raises ConfigError: a taken port."""

        async def endpoint(sock: socket.socket, messages: Any, _context: Context) -> _Endpoint:
            loop = asyncio.get_running_loop()
            _, made = await loop.create_datagram_endpoint(lambda: _Endpoint(self._sessions, messages), sock=sock)
            return made

        context, _, _ = await open_endpoint(
            bind(self._host, self._config.port, "coap.dtls.port"),
            site,
            TokenManager,
            lambda tokens: Messages(tokens, recent, monotonic_s),
            endpoint,
        )
        return context

    def state(self) -> str:
        """For people, after "listening on …"."""
        told = f"port {self._config.port} with DTLS, {len(self._sessions)} sessions"
        return f"{told}, {self._sessions.refused}" if self._sessions.refused else told

"""The seam to aiocoap: one UDP socket, CoAP's message layer on it, and a limit on what it remembers.

aiocoap 0.4.17 is taken below its `create_server_context`, for four reasons:
- That binds with SO_REUSEPORT: a second agent on the port would take half of the messages instead of failing.
- It remembers a request for 247 s as objects of 2.7 kB, without a limit: 100 requests per second cost 66 MB,
  1000 cost 660. `Recent` keeps what a repetition needs, the acknowledgement's bytes, in 0.45 kB.
- It reads 4096 bytes of a datagram and drops the rest silently.
- A datagram that it cannot parse ends in a traceback in the log.

The socket is an IPv6 one that also takes IPv4 (RFC 3493 3.7), because aiocoap's `udp6` asks for that.

Limits: RECENT_MAX requests remembered (about 15 MB).
"""

import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Protocol

from aiocoap.messagemanager import MessageManager
from aiocoap.numbers.constants import TransportTuning
from aiocoap.numbers.types import ACK, CON
from aiocoap.protocol import Context
from aiocoap.tokenmanager import TokenManager
from aiocoap.transports.udp6 import MessageInterfaceUDP6

from telemetry.errors import ConfigError

log = logging.getLogger(__name__)

EXCHANGE_LIFETIME_S = 247.0
"""RFC 7252 4.8.2: how long a message id may come again and be the same message."""
RECENT_MAX = 32_768
DATAGRAM_BYTES_MAX = 65_535

Key = tuple[str, int, int, int]
"""A request's address, port, scope and message id."""


class Recent:
    """The requests of the last EXCHANGE_LIFETIME_S, each with its acknowledgement, if any (RFC 7252 4.5)."""

    def __init__(self, now_s: float, requests_max: int = RECENT_MAX) -> None:
        self._requests: dict[Key, tuple[float, bytes | None]] = {}  # in the order of their arrival
        self._requests_max = requests_max
        self._complete_from_s = now_s

    def __len__(self) -> int:
        return len(self._requests)

    def is_complete(self, now_s: float) -> bool:
        """Whether nothing is forgotten that could come again: not just started, nothing evicted."""
        return self._complete_from_s <= now_s - EXCHANGE_LIFETIME_S

    def is_repeated(self, key: Key, now_s: float) -> bool:
        """Whether the request has been here; remember it if not."""
        self._expire(now_s)
        if key in self._requests:
            return True
        if len(self._requests) >= self._requests_max:
            self._complete_from_s, _ = self._requests.pop(next(iter(self._requests)))
        self._requests[key] = (now_s, None)
        return False

    def _expire(self, now_s: float) -> None:
        while self._requests:
            oldest = next(iter(self._requests))
            if self._requests[oldest][0] > now_s - EXCHANGE_LIFETIME_S:
                return
            del self._requests[oldest]

    def answer(self, key: Key, acknowledgement: bytes) -> None:
        """Remember what a repetition of the request is to be answered with."""
        if key in self._requests:
            self._requests[key] = (self._requests[key][0], acknowledgement)

    def answer_of(self, key: Key) -> bytes | None:
        """What the request was answered with, None when it was not yet."""
        return self._requests[key][1]


class Site(Protocol):
    """Who answers the requests: adds one response to the pipe, and raises nothing."""

    async def render_to_pipe(self, pipe: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class _Bytes:
    """A message that has been encoded already, as far as `MessageInterfaceUDP6.send` looks at it."""

    remote: Any
    data: bytes

    def encode(self) -> bytes:
        return self.data


class _Patient(TransportTuning):  # type: ignore[misc]  # aiocoap has no annotations
    """No empty acknowledgement before the answer, as long as a device may wait for it."""

    EMPTY_ACK_DELAY = EXCHANGE_LIFETIME_S


_PATIENT = _Patient()


class Messages(MessageManager):  # type: ignore[misc]  # aiocoap has no annotations
    """aiocoap's message layer with a bounded memory of requests."""

    def __init__(self, tokens: Any, recent: Recent, monotonic_s: Callable[[], float]) -> None:
        super().__init__(tokens)
        self._recent = recent
        self._monotonic_s = monotonic_s

    def _deduplicate_message(self, message: Any) -> bool:
        key = _key(message)
        if not self._recent.is_repeated(key, self._monotonic_s()):
            return False
        answer = self._recent.answer_of(key)
        if message.mtype is CON and answer is not None:
            self._send_via_transport(_Bytes(message.remote.as_response_address(), answer))
        return True

    def _process_request(self, request: Any) -> None:
        request.transport_tuning = _PATIENT
        super()._process_request(request)

    def _store_response_for_duplicates(self, message: Any) -> None:
        if message.mtype is ACK:  # a separate response has a message id of its own, and repeats itself
            self._recent.answer(_key(message), message.encode())

    async def shutdown(self) -> None:
        for _, timer in self._piggyback_opportunities.values():
            timer.cancel()  # they would send an empty ACK through the closed socket
        await super().shutdown()


class _Datagrams(MessageInterfaceUDP6):  # type: ignore[misc]  # aiocoap has no annotations
    """aiocoap's UDP transport, unimpressed by datagrams that are not CoAP."""

    def datagram_msg_received(self, data: bytes, ancdata: Any, flags: int, address: Any) -> None:
        try:
            super().datagram_msg_received(data, ancdata, flags, address)
        except Exception as error:  # noqa: BLE001 - a parser's outermost edge; RFC 7252 4.2: silently ignore
            log.debug("Ignoring a malformed datagram of %d bytes from %s: %r", len(data), address[0], error)


def _key(message: Any) -> Key:
    host, port, _, scope = message.remote.sockaddr
    return host, port, scope, message.mid


async def _udp(sock: socket.socket, messages: Any, context: Context) -> Any:
    endpoint = await _Datagrams._create_transport_endpoint(sock, messages, context.log, context.loop)  # noqa: SLF001 - the seam
    endpoint.transport.max_size = DATAGRAM_BYTES_MAX
    return endpoint


async def listen(host: str, port: int, site: Site, recent: Recent, monotonic_s: Callable[[], float]) -> Context:
    """Serve `site` on an address until the context is shut down. Raises ConfigError: a taken port."""
    context, _, _ = await open_endpoint(
        bind(host, port), site, TokenManager, lambda tokens: Messages(tokens, recent, monotonic_s)
    )
    return context


async def open_endpoint(
    sock: socket.socket,
    site: Site | None,
    make_tokens: Callable[[Context], Any],
    make_messages: Callable[[Any], Any],
    make_interface: Callable[[socket.socket, Any, Context], Awaitable[Any]] = _udp,
) -> tuple[Context, Any, Any]:
    """CoAP on a socket until the context is shut down: the context, its tokens and its messages."""
    context = Context(serversite=site, loggername=f"{__name__}.aiocoap")
    context.log.setLevel(logging.CRITICAL)  # it logs per message; what matters is said by the collector
    tokens = make_tokens(context)
    messages = make_messages(tokens)
    try:
        messages.message_interface = await make_interface(sock, messages, context)
    except BaseException:
        sock.close()
        raise
    tokens.token_interface = messages
    context.request_interfaces.append(tokens)
    return context, tokens, messages


def bind(host: str, port: int, key: str = "coap.port") -> socket.socket:
    """A dual-stack UDP socket on a numeric address of either family. key: where the config has the port."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    flags = socket.AI_NUMERICHOST | socket.AI_V4MAPPED
    try:
        address = socket.getaddrinfo(host, port, socket.AF_INET6, socket.SOCK_DGRAM, flags=flags)[0][4]
        sock = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    except socket.gaierror as error:
        raise ConfigError(f"coap.bind must be an IP address of this machine, got {host!r}") from error
    except OSError as error:
        raise ConfigError(f"CoAP needs IPv6 sockets, and this kernel gives none: {error.strerror}") from error
    try:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(address)
    except OSError as error:
        sock.close()
        steps = {
            errno.EADDRINUSE: f"Stop the program that has this port, or choose another {key}.",
            errno.EADDRNOTAVAIL: "Set coap.bind to an address of this machine, or to 0.0.0.0.",
            errno.EACCES: f"Choose a {key} above 1023.",
        }
        step = steps.get(error.errno or 0, "")
        raise ConfigError(f"cannot listen for CoAP on {where}: {error.strerror}. {step}".rstrip()) from error
    return sock

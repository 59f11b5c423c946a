"""OSCORE (RFC 8613) on the CoAP server: requests are opened, their devices known by their keys, the answers sealed.

What comes again, and what is only said to be new. A request has a number ("Partial IV") that its device never uses
again, so its ciphertext is that of one message, wherever and whenever it comes from. In this order:

1. One that is being answered is answered with what becomes of that.
2. One whose ciphertext the spool's journal knows was committed: 2.04, and it is not collected.
3. One whose number is new (`coap_window`) is collected.
4. Any other gets 4.01 and an Echo option (B.1.2, RFC 9175): what brings that back is a new message with a new number.

The journal is written in the transaction of the records, the windows are in memory. So an agent that starts knows what
was committed, and asks each device for one Echo before it believes that anything is new. Whoever replays what he has
recorded has no Echo, however old it is, also if the spool is gone. If the journal were asked last, a message that was
committed and not answered before a kill would be told to come again as another one, and be stored twice.

Every answer takes a number of the gateway's own (`coap_numbers`), before its message is collected: one that cannot be
answered is not collected either.

Refused unsealed, for there is nothing to seal with: 4.02 what is no OSCORE, 4.01 an unknown key, 4.00 what does not
decrypt.

Limits: of devices see `oscore_file`; REPEATS_MAX repetitions wait for what they repeat, more (a flood of replays, and
commits that take long) are told 5.03.
"""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from aiocoap.message import Message
from aiocoap.numbers import codes
from aiocoap.numbers.types import NON

from edge_agent.collect.coap_context import Option, SecurityContext, read_option
from edge_agent.collect.coap_keys import OscoreDevice
from edge_agent.collect.coap_numbers import Numbers
from edge_agent.collect.coap_window import Window
from edge_agent.collect.oscore_file import DeviceKeys
from telemetry.errors import FieldlineError

log = logging.getLogger(__name__)

REPEATS_MAX = 1000
ECHO_BYTES = 8
ID_BYTES_SHOWN = 8

Name = tuple[bytes, bytes | None]
"""A kid and a kid context."""


class Peer(NamedTuple):
    """A device's keys, and which of its numbers were here."""

    context: SecurityContext
    window: Window


class Exchange(NamedTuple):
    """A request, and what its answer is sealed with."""

    request: Any
    peer: Peer
    asked: Option


class Oscore:
    """The security contexts of a server.

    knows: whether the spool has committed a message with this key. is_required: whether nothing is taken in the clear.
    """

    def __init__(
        self,
        devices: Sequence[DeviceKeys],
        numbers: Numbers,
        knows: Callable[[int], bool],
        *,
        is_required: bool = False,
    ) -> None:
        self.is_required = is_required
        self._numbers = numbers
        self._knows = knows
        self._peers = _by_name(devices)
        self._devices = len(devices)
        self._echo = secrets.token_bytes(ECHO_BYTES)  # proves that a request is younger than this agent
        self._answering: dict[int, asyncio.Event] = {}
        self._repeats = 0
        self._refused = ""

    def state(self) -> str:
        """For people, after "listening on …"."""
        return f"OSCORE for {self._devices} devices" + (f" ({self._refused})" if self._refused else "")

    def begin(self, request: Any) -> Exchange | Any:
        """The exchange of a request with the option, or the answer that refuses it."""
        if request.opt.proxy_uri is not None or request.opt.proxy_scheme is not None:
            return self._refuse(codes.BAD_OPTION, "this is no proxy")
        asked = read_option(request.opt.oscore)
        if asked is None:
            return self._refuse(codes.BAD_OPTION, "Failed to decode COSE")
        peer = self._peers.get((asked.kid, asked.kid_context))
        if peer is None:
            reason = f"no device has kid {asked.kid[:ID_BYTES_SHOWN].hex()!r}"
            return self._refuse(codes.UNAUTHORIZED, "Security context not found", reason)
        return Exchange(request, peer, asked)

    async def answer(
        self, exchange: Exchange, ciphertext: bytes, also: Sequence[int], render: Callable[[Any], Awaitable[Any]]
    ) -> Any:
        """The sealed answer of `render` to what is in the ciphertext. also: more keys by which it may be known."""
        context = exchange.peer.context
        plaintext = context.open(exchange.asked, ciphertext)
        if plaintext is None:
            return self._refuse(codes.BAD_REQUEST, "Decryption failed", f"{context.keys.device} has another key")
        try:
            number = self._numbers.next()
        except (OSError, FieldlineError) as error:
            return self._refuse(codes.SERVICE_UNAVAILABLE, "the gateway cannot answer", str(error))
        inner = _inner(plaintext)
        if inner is None:
            return self._seal(exchange, number, Message(code=codes.BAD_REQUEST, payload=b"this is no CoAP request"))
        inner.remote = OscoreDevice(context.keys.device, (_key(ciphertext), *also))
        response = await self._once(exchange, inner, render)
        sealed = self._seal(exchange, number, response)
        if exchange.request.mtype is NON and (inner.opt.no_response or 0) & 1 << response.code.class_ - 1:
            sealed.opt.no_response = 1 << sealed.code.class_ - 1  # RFC 7967, of the code that nobody else sees
        return sealed

    async def _once(self, exchange: Exchange, inner: Any, render: Callable[[Any], Awaitable[Any]]) -> Any:
        """The answer to a request, which is collected only if it never was."""
        key = inner.remote.keys[0]
        if key in self._answering and self._repeats >= REPEATS_MAX:
            return Message(code=codes.SERVICE_UNAVAILABLE, payload=b"too many repetitions wait")
        self._repeats += 1
        try:
            while (other := self._answering.get(key)) is not None:
                await other.wait()
        finally:
            self._repeats -= 1
        if self._knows(key):
            return Message(code=codes.CHANGED, block1=inner.opt.block1)
        number, is_fresh = int.from_bytes(exchange.asked.piv), inner.opt.echo == self._echo
        if not exchange.peer.window.takes(number, is_fresh=is_fresh):
            return self._challenge(number, is_fresh=is_fresh)
        self._answering[key] = asyncio.Event()
        try:
            return await render(inner)
        finally:
            self._answering.pop(key).set()

    def _challenge(self, number: int, *, is_fresh: bool) -> Any:
        """Ask for a proof that what was said is new; one that has it, and a number that was used, is told so."""
        if is_fresh:
            return Message(code=codes.UNAUTHORIZED, payload=f"the number {number} is not new".encode())
        return Message(code=codes.UNAUTHORIZED, echo=self._echo)

    def seal(self, exchange: Exchange, response: Any) -> Any:
        """A response of an exchange as it is sent. Raises OSError, FieldlineError."""
        return self._seal(exchange, self._numbers.next(), response)

    def _seal(self, exchange: Exchange, number: int, response: Any) -> Any:
        plaintext = bytes([response.code]) + response.opt.encode()
        plaintext += b"\xff" + response.payload if response.payload else b""
        option, ciphertext = exchange.peer.context.seal(exchange.asked, number, plaintext)
        code = codes.CONTENT if exchange.request.code == codes.FETCH else codes.CHANGED
        return Message(code=code, payload=ciphertext, oscore=option)

    def _refuse(self, code: Any, said: str, reason: str = "") -> Any:
        """An answer that is not sealed. reason: for people at the gateway."""
        self._refused = f"last refused: {reason or said}"
        return Message(code=code, payload=said.encode(), max_age=0)


def _by_name(devices: Sequence[DeviceKeys]) -> dict[Name, Peer]:
    """Each device by its kid and kid context, and by its kid alone if no other has it."""
    peers: dict[Name, Peer] = {}
    unnamed: dict[bytes, list[Peer]] = {}
    for keys in devices:
        peer = Peer(SecurityContext(keys), Window())
        peers[keys.recipient_id, keys.id_context] = peer
        unnamed.setdefault(keys.recipient_id, []).append(peer)
    for kid, found in unnamed.items():
        if len(found) == 1:
            peers[kid, None] = found[0]
    return peers


def _inner(plaintext: bytes) -> Any | None:
    """The request in a plaintext (RFC 8613 5.3); None when it is none."""
    try:
        inner = Message(code=plaintext[0])
        inner.payload = inner.opt.decode(plaintext[1:])
    except Exception as error:  # noqa: BLE001 - a parser's outermost edge
        log.debug("What was decrypted is no CoAP: %r", error)
        return None
    return inner


def _key(ciphertext: bytes) -> int:
    """By what the journal knows a message: 64 bits, not 0, which stands for no key."""
    return int.from_bytes(hashlib.blake2b(ciphertext, digest_size=8).digest(), "little") or 1

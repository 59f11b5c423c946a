"""The seam to aiocoap for an agent that asks: one exchange, a whole representation, or an observation.

aiocoap 0.4.17's `Context.request` is not used, because it acknowledges a notification when it arrives, hands over only
the latest of several that come at once, orders them by a clock that may be set, and puts a body together of as
many blocks as its device likes. Here the caller says when a notification is acknowledged (`Notifications.done`), and
bodies are limited. A registration is renewed under its own token (RFC 7641 3.3.1), so that a device with few
places for observers keeps one.

Every failure is a DeviceError, a sentence that follows the device's address.

Limits: NOTIFICATIONS_MAX of one observation wait; more are not acknowledged, so that the device sends them again.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Self

from aiocoap import error
from aiocoap.message import Message
from aiocoap.numbers import codes
from aiocoap.numbers.types import CON
from aiocoap.optiontypes import BlockOption
from aiocoap.pipe import Pipe
from aiocoap.protocol import Context
from aiocoap.tokenmanager import TokenManager

from edge_agent.collect.coap_endpoint import Messages, Recent, bind, open_endpoint
from telemetry.errors import FieldlineError

ANSWER_S_MAX = 93.0
"""MAX_TRANSMIT_WAIT of RFC 7252 4.8.2: who has not answered by then does not."""
NOTIFICATIONS_MAX = 16
OBSERVE_RESET_S = 128.0


class DeviceError(FieldlineError):
    """A device did not do what it was asked."""


class _Tokens(TokenManager):  # type: ignore[misc]  # aiocoap has no annotations
    """Gives `renewed` as the next token, if it is set."""

    renewed: bytes | None = None

    def next_token(self) -> Any:
        token, self.renewed = self.renewed, None
        return token or super().next_token()


class _Messages(Messages):
    """A message layer that can leave a confirmable response without its acknowledgement for now."""

    _held: tuple[Any, int] | None = None

    def hold(self, message: Any) -> None:
        """To be called while a response is dispatched: it is not acknowledged when that returns."""
        self._held = message.remote, message.mid

    def acknowledge(self, message: Any) -> None:
        super()._send_empty_ack(message.remote, message.mid, "it is durable")

    def _send_empty_ack(self, remote: Any, mid: int, reason: str) -> None:
        held, self._held = self._held, None
        if held != (remote, mid):
            super()._send_empty_ack(remote, mid, reason)


class Order:
    """The order of one observation's notifications (RFC 7641 3.4)."""

    def __init__(self) -> None:
        self._latest: tuple[int, float] | None = None

    def is_newer(self, number: int, now_s: float) -> bool:
        """Whether it is newer than all before it, which makes it the latest one."""
        if self._latest is not None:
            latest, at_s = self._latest
            ahead = (number - latest) % 2**24
            if not 0 < ahead < 2**23 and now_s <= at_s + OBSERVE_RESET_S:
                return False
        self._latest = number, now_s
        return True


class Notifications:
    """What comes of one registration: its answer, then notifications."""

    def __init__(self, messages: _Messages, monotonic_s: Callable[[], float]) -> None:
        self._messages = messages
        self._monotonic_s = monotonic_s
        self._order = Order()
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._not_done = 0

    async def next(self, wait_s: float) -> Any | None:
        """The next one; None when nothing came for so long. `done` must be called with it. Raises DeviceError."""
        try:
            async with asyncio.timeout(wait_s):
                event = await self._arrived.get()
        except TimeoutError:
            return None
        if event.exception is not None:
            raise _told(event.exception) from event.exception
        return _successful(event.message)

    def done(self, message: Any) -> None:
        """What it said is durable: acknowledge it, if its device waits for that."""
        self._not_done -= 1
        if message.mtype is CON:
            self._messages.acknowledge(message)

    def add(self, event: Any) -> bool:
        """Called by aiocoap; whether more may come."""
        message = event.message
        if message is None:
            if event.exception is not None:
                self._arrived.put_nowait(event)
            return False
        number = message.opt.observe
        if self._not_done >= NOTIFICATIONS_MAX:
            self._hold(message)
        elif number is None or self._order.is_newer(number, self._monotonic_s()):
            self._not_done += 1
            self._hold(message)
            self._arrived.put_nowait(event)
        elif self._not_done:
            self._hold(message)  # it may be the repetition of one that is not durable yet
        return not event.is_last

    def _hold(self, message: Any) -> None:
        if message.mtype is CON and message.code.is_successful():
            self._messages.hold(message)


class Requests:
    """An endpoint that asks. Use `open_requests`."""

    def __init__(
        self, context: Context, tokens: _Tokens, messages: _Messages, monotonic_s: Callable[[], float]
    ) -> None:
        self._context = context
        self._tokens = tokens
        self._messages = messages
        self._monotonic_s = monotonic_s

    @classmethod
    async def open(cls, monotonic_s: Callable[[], float]) -> Self:
        """Raises ConfigError when the machine has no IPv6 sockets."""
        recent = Recent(monotonic_s())
        context, tokens, messages = await open_endpoint(
            bind("::", 0), None, _Tokens, lambda tokens: _Messages(tokens, recent, monotonic_s)
        )
        return cls(context, tokens, messages, monotonic_s)

    async def close(self) -> None:
        await self._context.shutdown()

    async def ask(self, request: Any) -> Any:
        """The successful response to one request. Raises DeviceError."""
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def take(event: Any) -> bool:
            if not done.done():
                done.set_result(event)
            return False

        async with self._exchange(request, take):
            try:
                async with asyncio.timeout(ANSWER_S_MAX):
                    event = await done
            except TimeoutError:
                raise DeviceError("does not answer") from None
        if event.exception is not None:
            raise _told(event.exception) from event.exception
        return _successful(event.message)

    async def get(self, uri: str, bytes_max: int) -> Any:
        """A representation, whole; its blocks put together (RFC 7959 2.4). Raises DeviceError."""
        first = response = await self.ask(Message(code=codes.GET, uri=uri))
        body = bytes(first.payload)
        while True:
            block = response.opt.block2
            if len(body) > bytes_max:
                raise DeviceError(f"says more than collect.payload_bytes_max, {bytes_max} bytes")
            if block is not None and block.start + len(response.payload) != len(body):
                raise DeviceError("sends other blocks than it is asked for")
            if block is None or not block.more:
                first.payload = body
                return first
            if len(response.payload) != block.size:
                raise DeviceError("sends blocks that are not as long as they say")
            request = Message(code=codes.GET, uri=uri)
            request.opt.block2 = BlockOption.BlockwiseTuple(len(body) // block.size, False, block.size_exponent)
            response = await self.ask(request)
            if response.opt.block2 is None or response.opt.etag != first.opt.etag:
                raise DeviceError("has changed what it says while it was read in blocks")
            body += response.payload

    def token(self) -> bytes:
        """A token for an observation, which is renewed under it."""
        token: bytes = self._tokens.next_token()
        return token

    @asynccontextmanager
    async def observe(self, uri: str, token: bytes) -> AsyncIterator[Notifications]:
        """Register under a token, or renew that. At the end of the block the observation is forgotten: the device
        learns it by the reset of its next notification. Raises DeviceError.
        """
        notifications = Notifications(self._messages, self._monotonic_s)
        async with self._exchange(Message(code=codes.GET, uri=uri, observe=0), notifications.add, token):
            yield notifications

    @asynccontextmanager
    async def _exchange(
        self, request: Any, on_event: Callable[[Any], bool], token: bytes | None = None
    ) -> AsyncIterator[None]:
        pipe = Pipe(request, self._context.log)
        stop = pipe.on_event(on_event)
        try:
            try:
                interface = await self._context.find_remote_and_interface(request)
            except (error.Error, OSError, ValueError) as cause:
                raise _told(cause) from cause
            self._tokens.renewed = token
            interface.request(pipe)
            yield
        finally:
            stop()


def _successful(response: Any) -> Any:
    if response.code.is_successful():
        return response
    diagnostic = response.payload[:200].decode(errors="replace")
    raise DeviceError(f"answers {response.code}" + (f": {diagnostic}" if diagnostic else ""))


def _told(cause: BaseException) -> DeviceError:
    """An exception of aiocoap as a sentence."""
    if isinstance(cause, error.ResolutionError):
        return DeviceError("has a host name that nobody knows at present")
    if isinstance(cause, error.TimeoutError):
        return DeviceError("does not answer")
    if isinstance(cause, error.MessageError):
        return DeviceError("resets the request")
    return DeviceError(f"cannot be reached: {cause or type(cause).__name__}")

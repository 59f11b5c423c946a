"""The bytes of one connection: decoding, keepalive, backpressure both ways, and why it ended.

Keepalive (3.1.2.10): a PINGREQ every half keepalive. The broker is given up when nothing at all was heard for
a whole keepalive after a PINGREQ, unless we have stopped reading ourselves, or it is still taking what we
wrote (a slow uplink may carry one batch for longer than a keepalive). It is the answer that is timed, so that
a stall of this process is not taken for one of the broker.
"""

import asyncio
from collections.abc import Callable

from broker_bridge.mqtt import encode
from broker_bridge.mqtt.codec import Decoder, Received
from broker_bridge.mqtt.packets import ProtocolError

CLOSE_S_MAX = 2.0
"""How long `close` waits for the broker to take DISCONNECT before the connection is reset."""


class Wire(asyncio.Protocol):
    """Calls `on_received` with what each socket read completed and, once, `on_lost` with the reason.

    asyncio has switched on TCP_NODELAY.
    """

    def __init__(
        self,
        decoder: Decoder,
        peer: str,
        on_received: Callable[[Received], None],
        on_lost: Callable[[str], None],
    ) -> None:
        self._decoder = decoder
        self._peer = peer
        self._on_received = on_received
        self._on_lost = on_lost
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._timer: asyncio.TimerHandle | None = None
        self._asked_at: float | None = None  # of the first PINGREQ with nothing heard since
        self._written_bytes = 0
        self._taken_bytes = 0
        self._unsent_bytes = 0
        self._paused = False
        self.closed: asyncio.Future[str] = self._loop.create_future()
        self.reason = ""
        self.writable = asyncio.Event()
        self.writable.set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self.reason:
            return
        self._asked_at = None
        try:
            received = self._decoder.feed(data)
        except ProtocolError as error:
            self.fail(f"{self._peer} broke the protocol: {error}")
        else:
            self._on_received(received)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if not self.reason:
            why = f"The connection to {self._peer} broke: {exc}." if exc else f"{self._peer} closed the connection."
            self.reason = why
        self.writable.set()
        self._on_lost(self.reason)
        self.closed.set_result(self.reason)

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def send(self, data: bytes) -> None:
        """Write unless the connection is ending."""
        if not self.reason:
            self._written_bytes += len(data)
            self._transport.write(data)

    def pause(self) -> None:
        """Stop reading: the kernel's buffers fill up and TCP holds the broker back."""
        if not self._paused and not self.reason:
            self._paused = True
            self._transport.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused:
            self._paused = False
            self._asked_at = None
            self._transport.resume_reading()

    def fail(self, reason: str) -> None:
        """Reset the connection."""
        self.reason = self.reason or reason
        self._transport.abort()

    async def close(self) -> None:
        """Send DISCONNECT (3.14) and wait until the broker closes; reset when that takes too long.

        Reading until the end keeps the kernel from a reset that would overtake the PUBACKs before it.
        """
        if not self.reason:
            self.resume()
            self.send(encode.DISCONNECT)
            self.reason = "This side closed the connection."
        try:
            async with asyncio.timeout(CLOSE_S_MAX):
                await asyncio.shield(self.closed)
        except TimeoutError:
            self._transport.abort()
            await asyncio.shield(self.closed)
        finally:
            self._transport.abort()

    def keep_alive(self, keepalive_s: float) -> None:
        """Start the keepalive; 0 is none."""
        if keepalive_s:
            self._timer = self._loop.call_later(keepalive_s / 2, self._tick, keepalive_s)

    def _tick(self, keepalive_s: float) -> None:
        if self.reason:
            return
        now = self._loop.time()
        if self._paused or self._broker_takes():
            self._asked_at = None
        if self._asked_at is None:
            self._asked_at = now
        elif now - self._asked_at >= keepalive_s:
            self.fail(f"{self._peer} did not answer for {keepalive_s:g} s. Check the network and the broker.")
            return
        self.send(encode.PINGREQ)
        self._timer = self._loop.call_later(keepalive_s / 2, self._tick, keepalive_s)

    def _broker_takes(self) -> bool:
        """Whether the peer took bytes since the last tick, told by a full kernel buffer that took more."""
        was_unsent, taken_before = self._unsent_bytes, self._taken_bytes
        self._unsent_bytes = self._transport.get_write_buffer_size()
        self._taken_bytes = self._written_bytes - self._unsent_bytes
        return was_unsent > 0 and self._taken_bytes > taken_before

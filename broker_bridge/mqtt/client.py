"""One MQTT connection on asyncio, 3.1.1 or 5: no reconnecting, no queue, no task. The loops above own retry.

    connection = await Connection.open(options, on_messages)
    await connection.subscribe(["devices/+/telemetry"])
    reason = await connection.closed

`on_messages(messages, connection)` is called synchronously with all PUBLISH packets of one socket read, from
before `open` returns when a kept session has some waiting; it must not block. Nothing is acknowledged unless
`ack` is called. `pause` stops reading, so that TCP pushes back to the broker.

Of a kept session only the receiving half is used: QoS 1 messages that were not acknowledged when a connection
ended are not sent again on the next (4.4 asks for it); the trunk resends batches by receipts instead.

With MQTT 5 a kept session does not expire, the broker may have `receive_max` messages unacknowledged (Mosquitto
else allows 20), and what it grants takes effect: its keepalive, its receive maximum, its largest packet.

Limits: at most `inflight_max` publications wait for their PUBACK; above the transport's write limit `publish`
waits; `packet_bytes_max` bounds what is buffered of one packet (see codec).
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ssl import SSLContext
from typing import Any, TypeVar

from broker_bridge.mqtt import encode, properties, sentences
from broker_bridge.mqtt.codec import Decoder, Messages, Received
from broker_bridge.mqtt.controls import Connack, Control, Disconnect, Puback, Suback
from broker_bridge.mqtt.packets import FAILED, REMAINING_BYTES_MAX, ProtocolError, Version
from broker_bridge.mqtt.wire import Wire
from telemetry.errors import FieldlineError

__all__ = [
    "ConnectError",
    "Connection",
    "ConnectionLostError",
    "Messages",
    "Options",
    "ProtocolError",
    "PublishError",
    "SubscribeError",
    "VersionError",
]

T = TypeVar("T")

SESSION_S_MAX = 0xFFFF_FFFF
"""The session expiry that means never (MQTT 5, 3.1.2.11.2)."""
_NOT_THIS_VERSION = (0x01, 0x84)


class ConnectError(FieldlineError):
    """The connection could not be opened; the text says what to check."""


class VersionError(ConnectError):
    """CONNECT was not answered as the version has it: another version may be."""


class ConnectionLostError(FieldlineError):
    """The connection ended before the answer came: whether the broker has the message is unknown."""


class SubscribeError(FieldlineError):
    """The broker refused a topic filter."""


class PublishError(FieldlineError):
    """The broker refused a message (MQTT 5)."""


@dataclass(frozen=True, slots=True)
class Options:
    """How to connect. ssl: None is plain TCP. keep_bytes: of a payload in a packet over packet_bytes_max.

    receive_max: how many messages the broker may have unacknowledged; only MQTT 5 can tell it.
    """

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ssl: SSLContext | None = None
    keepalive_s: int = 30
    clean_session: bool = True
    packet_bytes_max: int = 16 * 1024 * 1024
    keep_bytes: int = 1024
    connect_timeout_s: float = 10.0
    inflight_max: int = 64
    will: encode.Will | None = None
    version: Version = "3.1.1"
    receive_max: int = 0xFFFF

    @property
    def peer(self) -> str:
        """What sentences call the other side."""
        return f"The MQTT broker {self.host}:{self.port}"


class Connection:
    """Made by `open`. All methods belong to the event loop's thread."""

    def __init__(self, options: Options, on_messages: "Callable[[Messages, Connection], None]") -> None:
        self.options = options
        self.session_present = False  # whether the broker had kept a session of this client id
        self.session_s = SESSION_S_MAX  # how long it keeps one from now on
        self._on_messages = on_messages
        self._loop = asyncio.get_running_loop()
        self._wire = Wire(
            Decoder(options.packet_bytes_max, options.keep_bytes, options.version),
            options.peer,
            self._received,
            self._lost,
        )
        self._connack: asyncio.Future[Connack] = self._loop.create_future()
        self._subacks: dict[int, asyncio.Future[Suback]] = {}
        self._pubacks: dict[int, asyncio.Future[None]] = {}
        self._last_packet_id = 0
        self._turn = asyncio.Lock()
        self._places = asyncio.Semaphore(options.inflight_max)
        self._keepalive_s = options.keepalive_s
        self._sent_bytes_max = REMAINING_BYTES_MAX

    @classmethod
    async def open(cls, options: Options, on_messages: "Callable[[Messages, Connection], None]") -> "Connection":
        """Connect and wait for CONNACK, connect_timeout_s at most. Raises ConnectError, ProtocolError."""
        connection = cls(options, on_messages)
        try:
            async with asyncio.timeout(options.connect_timeout_s):
                await connection._handshake()
        except (OSError, UnicodeError) as error:  # TimeoutError and SSLError are OSErrors
            raise ConnectError(sentences.not_connected(options, error)) from error
        return connection

    async def _handshake(self) -> None:
        options, wire = self.options, self._wire
        packet = encode.connect(
            options.client_id,
            options.keepalive_s,
            clean_session=options.clean_session,
            username=options.username,
            password=options.password,
            will=options.will,
            version=options.version,
            numbers={
                properties.SESSION_EXPIRY_S: 0 if options.clean_session else SESSION_S_MAX,
                properties.RECEIVE_MAX: options.receive_max,
            },
        )
        await self._loop.create_connection(lambda: wire, options.host, options.port, ssl=options.ssl)
        try:
            wire.send(packet)
            connack = await self._connack
        except BaseException:
            await self._give_up()
            raise
        if connack.code:
            await self._give_up()
            said = properties.text(connack.properties, properties.REASON_STRING)
            kind = VersionError if connack.code in _NOT_THIS_VERSION else ConnectError
            raise kind(sentences.refused(options, connack.code, said))
        wire.keep_alive(self._keepalive_s)

    async def _give_up(self) -> None:
        self._wire.fail("The connection was not completed.")
        await asyncio.shield(self._wire.closed)

    async def subscribe(self, filters: Sequence[str], qos: int = 1) -> list[int]:
        """Subscribe and wait for SUBACK while the connection lasts. Returns the granted QoS of each filter.

        Raises SubscribeError naming the refused filters, ConnectionLostError.
        """
        self._check_open()
        packet_id = self._next_packet_id()
        answer = self._subacks[packet_id] = self._loop.create_future()
        self._wire.send(encode.subscribe(packet_id, [(topic, qos) for topic in filters], self.options.version))
        suback = await answer
        refused = {topic: code for topic, code in zip(filters, suback.codes, strict=False) if code >= FAILED}
        if refused or len(suback.codes) != len(filters):
            refused = refused or dict.fromkeys(filters, FAILED)
            code = next(iter(refused.values()))
            raise SubscribeError(sentences.not_subscribed(self.options, refused, code, suback.reason))
        return list(suback.codes)

    async def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> None:
        """Publish, in the order of the calls; with QoS 1 return when the broker has acknowledged.

        Waits for one of inflight_max places. Raises ConnectionLostError, PublishError, and ProtocolError for a topic
        or payload that MQTT or the broker does not allow. When it is cancelled, the message may have been sent.
        """
        async with self._turn:
            await self._wire.writable.wait()
            if not qos:
                self._check_open()
                self._wire.send(self._publication(topic, payload, 0, retain=retain))
                return
            await self._places.acquire()
            try:
                self._check_open()
                packet_id = self._next_packet_id()
                self._wire.send(self._publication(topic, payload, packet_id, retain=retain))
            except BaseException:
                self._places.release()
                raise
            acknowledged = self._pubacks[packet_id] = self._loop.create_future()
        await acknowledged

    def post(self, topic: str, payload: bytes) -> None:
        """Publish with QoS 0 now, or not at all: if the connection is closed, or the broker takes nothing.

        Raises ProtocolError as `publish` does.
        """
        if self._wire.writable.is_set():
            self._wire.send(self._publication(topic, payload, 0, retain=False))

    def _publication(self, topic: str, payload: bytes, packet_id: int, *, retain: bool) -> bytes:
        """A PUBLISH; without a packet id it is one with QoS 0."""
        packet = encode.publish(
            topic, payload, qos=bool(packet_id), retain=retain, packet_id=packet_id, version=self.options.version
        )
        if len(packet) > self._sent_bytes_max:
            raise ProtocolError(
                f"A message to {topic[:80]!r} makes a packet of {len(packet)} bytes, "
                f"{self.options.peer} takes {self._sent_bytes_max}. Raise its limit."
            )
        return packet

    def ack(self, packet_ids: Sequence[int]) -> None:
        """Write the PUBACKs in this order, at once; 0 (QoS 0) is left out. Harmless when closed."""
        if 0 in packet_ids:
            packet_ids = [packet_id for packet_id in packet_ids if packet_id]
        if packet_ids:
            self._wire.send(encode.pubacks(packet_ids))

    def pause(self) -> None:
        """Stop reading from the socket; keepalive goes on. May be called again."""
        self._wire.pause()

    def resume(self) -> None:
        """Read again. May be called again."""
        self._wire.resume()

    @property
    def closed(self) -> Awaitable[str]:
        """Ends with the reason, a sentence, when the connection is gone. Cancelling the wait is harmless."""
        return asyncio.shield(self._wire.closed)

    async def close(self) -> None:
        """DISCONNECT, then close; a kept session stays at the broker. May be called again."""
        await self._wire.close()

    def _received(self, received: Received) -> None:
        for control in received.controls:
            self._controlled(control)
        for packet_id in received.pubacks:
            self._acknowledged(packet_id, None)
        if received.messages.topics:
            self._on_messages(received.messages, self)

    def _controlled(self, control: Control) -> None:
        if isinstance(control, Connack) and not self._connack.done():
            self._accept(control)
            self._connack.set_result(control)
        elif isinstance(control, Suback) and control.packet_id in self._subacks:
            _resolve(self._subacks.pop(control.packet_id), control)
        elif isinstance(control, Puback):
            failed = control.code >= FAILED
            said = sentences.not_published(self.options, control.code, control.reason) if failed else None
            self._acknowledged(control.packet_id, said)
        elif isinstance(control, Disconnect):
            self._wire.fail(sentences.disconnected(self.options, *control))

    def _accept(self, connack: Connack) -> None:
        """Keep to what the broker grants (MQTT 5, 3.2.2.3)."""
        granted, options = connack.properties, self.options
        self.session_present = connack.session_present
        self.session_s = properties.number(granted, properties.SESSION_EXPIRY_S, SESSION_S_MAX)
        self._keepalive_s = properties.number(granted, properties.SERVER_KEEP_ALIVE_S, options.keepalive_s)
        self._sent_bytes_max = properties.number(granted, properties.PACKET_BYTES_MAX, REMAINING_BYTES_MAX)
        receive_max = properties.number(granted, properties.RECEIVE_MAX, options.inflight_max)
        self._places = asyncio.Semaphore(min(max(receive_max, 1), options.inflight_max))

    def _acknowledged(self, packet_id: int, refusal: str | None) -> None:
        answer = self._pubacks.pop(packet_id, None)
        if answer is None:  # of a publication before this connection
            return
        self._places.release()
        if refusal is None:
            _resolve(answer, None)
        elif not answer.done():
            answer.set_exception(PublishError(refusal))

    def _lost(self, reason: str) -> None:
        waiting: list[asyncio.Future[Any]] = [*self._subacks.values(), *self._pubacks.values()]
        for _ in self._pubacks:
            self._places.release()
        self._subacks.clear()
        self._pubacks.clear()
        for future in waiting:
            if not future.done():
                future.set_exception(ConnectionLostError(reason))
        if not self._connack.done():
            self._connack.set_exception(VersionError(sentences.no_answer(self.options, reason)))

    def _check_open(self) -> None:
        if self._wire.reason:
            raise ConnectionLostError(self._wire.reason)

    def _next_packet_id(self) -> int:
        while True:
            self._last_packet_id = self._last_packet_id % 0xFFFF + 1
            if self._last_packet_id not in self._pubacks and self._last_packet_id not in self._subacks:
                return self._last_packet_id


def _resolve(future: "asyncio.Future[T]", value: T) -> None:
    if not future.done():  # it is done when its waiter was cancelled
        future.set_result(value)

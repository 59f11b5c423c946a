"""MQTT: a subscriber with a persistent session that acknowledges what is durable, and nothing before.

Each socket read is one chunk. Its packet ids wait in order of arrival until it is settled; PUBACKs leave in
that order (MQTT 3.1.1, 4.6), however chunks are settled, and all that one commit settled leave in one write.
A connection's arrivals die with it: settling them later does nothing, and the broker sends them again.
While `deliver` blocks, at most about `chunk_bytes_max` bytes of messages wait, then the socket is not read:
the broker keeps the rest. Keys are 0 for QoS 0, else (CRC-32 of topic and payload) << 16 | packet id.

A retained message in a resumed session without DUP is what the broker repeats because of our SUBSCRIBE
(3.8.4): this session had it before, so it is acknowledged and not delivered. With MQTT 5 the broker is told
not to repeat it.

With the version "auto" each connection is tried with MQTT 5, and at once with 3.1.1 when the broker does not
answer that. MQTT 5 is worth it for what the broker then says when it refuses something, and because we may
tell it how many messages to send before the first is acknowledged: RECEIVE_MAX.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal
from zlib import crc32

from broker_bridge.mqtt import sentences
from broker_bridge.mqtt.client import (
    SESSION_S_MAX,
    ConnectError,
    Connection,
    ConnectionLostError,
    Messages,
    Options,
    ProtocolError,
    SubscribeError,
    VersionError,
)
from edge_agent import config
from telemetry.backoff import Backoff
from telemetry.clock import Clock
from telemetry.delivery import DURABLE, Chunk, Deliver, Delivery, Outcome

log = logging.getLogger(__name__)

RETRY_S_MIN, RETRY_S_MAX = 0.1, 30.0
STABLE_S = 10.0
"""A connection that lasted this long was a success, and the next delay starts from the shortest."""
REST_S = 0.005
"""The pause after each read, so that the next one brings many messages and not a few: a broker writes each
message by itself. It halves the processor time per message at 30,000 messages/s, and as a commit waits as long
for company, it delays nothing. It is not a pause for an idle connection: the first message is read at once."""
MESSAGE_BYTES = 128
"""What a waiting message costs beside its payload, roughly."""
TOPICS_MAX = 50_000
RECEIVE_MAX = 8_192
"""Half of what the spool's journal remembers, so that whatever a broker sends again is recognised."""


class MqttCollector:
    """Raises ConfigError from `run` when the password or a TLS file cannot be used; never ends otherwise.

    packet_bytes_max: an MQTT packet above it is not taken whole; the chunk has the first `keep_bytes` of its
    payload and its true size in `oversized`.
    """

    def __init__(
        self,
        settings: config.Mqtt,
        gateway: str,
        clock: Clock,
        *,
        packet_bytes_max: int = 1024 * 1024,
        keep_bytes: int = 1024 * 1024,
    ) -> None:
        self._settings = settings
        self._client_id = settings.client_id or f"fieldline-{gateway}"
        self._clock = clock
        self._packet_bytes_max = packet_bytes_max
        self._keep_bytes = keep_bytes
        self._arrivals: Arrivals | None = None
        self._open: Connection | None = None
        self._trouble = "not connected yet"

    def state(self) -> str:
        """One short sentence for people."""
        where = f"{self._settings.host}:{self._settings.port}"
        if self._arrivals is None or not self.connected:
            return f"MQTT {where}: {self._trouble}"
        return f"MQTT {where}: connected as {self._client_id}, {self._arrivals.describe()}"

    @property
    def connected(self) -> bool:
        """Whether the device broker has our subscription."""
        return self._arrivals is not None and not self._trouble

    def publish(self, topic: str, payload: bytes) -> None:
        """With QoS 0, not retained; see Publisher."""
        try:
            if self._open is not None:
                self._open.post(topic, payload)
        except ProtocolError as error:
            log.warning("%s", error)

    async def run(self, deliver: Deliver) -> None:
        """Collect until cancelled; then say DISCONNECT, which keeps the session at the broker."""
        options = self._settings.options(
            self._client_id,
            clean_session=False,
            packet_bytes_max=self._packet_bytes_max,
            keep_bytes=self._keep_bytes,
            receive_max=RECEIVE_MAX,
        )
        backoff = Backoff(RETRY_S_MIN, RETRY_S_MAX)
        while True:
            self._say(await self._connection(options, backoff, deliver))
            await asyncio.sleep(backoff.next_s())

    async def _connection(self, options: Options, backoff: Backoff, deliver: Deliver) -> str:
        """One connection's life; returns why it ended."""
        arrivals = Arrivals(self._clock, self._settings.chunk_bytes_max)
        try:
            connection = await opened(options, self._settings.version, arrivals.add)
        except (ConnectError, ProtocolError) as error:
            return str(error)
        self._arrivals, self._open = arrivals, connection
        opened_s = self._clock.monotonic_s()
        try:
            async with asyncio.TaskGroup() as tasks:
                hand_over = tasks.create_task(arrivals.hand_over(connection, deliver), name="mqtt-deliver")
                reason = await self._subscribed(connection)
                hand_over.cancel()
        finally:
            self._open = None
            arrivals.acknowledge()
            await connection.close()
        if self._clock.monotonic_s() - opened_s > STABLE_S:
            backoff.reset()
        return reason

    async def _subscribed(self, connection: Connection) -> str:
        """Subscribe, then wait for the end; returns why it came."""
        try:
            granted = await connection.subscribe(self._settings.topics, qos=1)
        except (SubscribeError, ConnectionLostError) as error:
            return str(error)
        session = "resumed session" if connection.session_present else "new session"
        self._trouble = ""
        options = connection.options
        log.info("%s: connected as %s, %s, MQTT %s.", options.peer, self._client_id, session, options.version)
        if connection.session_s < SESSION_S_MAX:
            log.warning("%s", sentences.session_is_short(options, connection.session_s))
        for topic, qos in zip(self._settings.topics, granted, strict=True):
            if qos == 0:
                log.warning("%s grants %s only with QoS 0: losses are possible.", options.peer, topic)
        return await connection.closed

    def _say(self, reason: str) -> None:
        if reason != self._trouble:
            log.warning("%s", reason)
        self._trouble = reason


async def opened(
    options: Options, version: Literal["auto", "5", "3.1.1"], on_messages: Callable[[Messages, Connection], None]
) -> Connection:
    """Connect with the version that is set, or with the best that the broker has. Raises as `Connection.open`."""
    if version == "auto":
        with suppress(VersionError):
            return await Connection.open(replace(options, version="5"), on_messages)
        version = "3.1.1"
    return await Connection.open(replace(options, version=version), on_messages)


@dataclass(slots=True)
class _Unsettled:
    """The packet ids of one chunk, in order of arrival."""

    packet_ids: list[int]
    settled: bool = False


class Arrivals:
    """What came in on one connection: read but not handed over, and handed over but not acknowledged."""

    def __init__(self, clock: Clock, waiting_bytes_max: int) -> None:
        self._clock = clock
        self._waiting_bytes_max = waiting_bytes_max
        self._waiting: deque[tuple[int, Messages, int]] = deque()  # (received_at_ms, messages, bytes)
        self._waiting_bytes = 0
        self._full = False
        self._resting = False
        self._arrived = asyncio.Event()
        self._unsettled: deque[_Unsettled] = deque()
        self._connection: Connection | None = None
        self._acknowledging: asyncio.Handle | None = None
        self._checksums = _Checksums()

    def describe(self) -> str:
        """For people: what is not acknowledged yet."""
        unsettled = sum(len(entry.packet_ids) for entry in self._unsettled)
        return f"{unsettled} messages not yet durable, {self._waiting_bytes} bytes waiting"

    def add(self, messages: Messages, connection: Connection) -> None:
        """Take the messages of one socket read."""
        size = sum(map(len, messages.payloads)) + MESSAGE_BYTES * len(messages)
        self._waiting.append((self._clock.now_ms(), messages, size))
        self._waiting_bytes += size
        self._arrived.set()
        self._full = self._full or self._waiting_bytes > self._waiting_bytes_max
        self._resting = True
        connection.pause()
        asyncio.get_running_loop().call_later(REST_S, self._rested, connection)

    async def hand_over(self, connection: Connection, deliver: Deliver) -> None:
        """Deliver chunk by chunk until cancelled."""
        self._connection = connection
        while True:
            while not self._waiting:
                self._arrived.clear()
                await self._arrived.wait()
            received_at_ms, messages, size = self._waiting.popleft()
            unsettled = _Unsettled(messages.packet_ids)
            self._unsettled.append(unsettled)
            if messages.retained and connection.session_present and connection.options.version != "5":
                messages = _without_repetitions(messages)
            chunk = self._chunk(received_at_ms, messages)
            if chunk.topics:
                await deliver(Delivery(chunk, partial(self._settle, unsettled)))
            else:
                self._settle(unsettled, DURABLE)
            self._waiting_bytes -= size
            if self._full and self._waiting_bytes <= self._waiting_bytes_max // 2:
                self._full = False
                self._read_on(connection)

    def acknowledge(self) -> None:
        """Write the PUBACKs of all that is settled and has nothing unsettled before it."""
        self._acknowledging = None
        packet_ids: list[int] = []
        while self._unsettled and self._unsettled[0].settled:
            packet_ids += self._unsettled.popleft().packet_ids
        if packet_ids and self._connection is not None:
            self._connection.ack(packet_ids)

    def _rested(self, connection: Connection) -> None:
        self._resting = False
        self._read_on(connection)

    def _read_on(self, connection: Connection) -> None:
        if not self._resting and not self._full:
            connection.resume()

    def _settle(self, unsettled: _Unsettled, _outcome: Outcome) -> None:
        unsettled.settled = True
        if self._acknowledging is None:  # a commit settles many chunks in a row: one write for all of them
            self._acknowledging = asyncio.get_running_loop().call_soon(self.acknowledge)

    def _chunk(self, received_at_ms: int, messages: Messages) -> Chunk:
        checksums = self._checksums
        keys = [
            packet_id and crc32(payload, checksums[topic]) << 16 | packet_id
            for topic, payload, packet_id in zip(messages.topics, messages.payloads, messages.packet_ids, strict=True)
        ]
        return Chunk(received_at_ms, messages.topics, messages.payloads, keys, messages.redelivered, messages.oversized)


class _Checksums(dict[str, int]):
    """The CRC-32 of each topic, remembered; bounded by TOPICS_MAX."""

    def __missing__(self, topic: str) -> int:
        if len(self) >= TOPICS_MAX:
            self.clear()
        checksum = self[topic] = crc32(topic.encode())
        return checksum


def _without_repetitions(messages: Messages) -> Messages:
    """Without the retained messages that were not sent before and unacknowledged."""
    dropped = messages.retained - messages.redelivered
    kept = [index for index in range(len(messages)) if index not in dropped]
    place = {index: position for position, index in enumerate(kept)}
    return Messages(
        [messages.topics[index] for index in kept],
        [messages.payloads[index] for index in kept],
        [messages.packet_ids[index] for index in kept],
        {place[index] for index in messages.redelivered if index in place},
        set(),
        {place[index]: size for index, size in messages.oversized.items() if index in place},
    )

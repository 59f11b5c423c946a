"""The trunk's cloud end: batches in, receipts out, for the partitions of one worker.

Messages are acknowledged to the broker as they are taken in; that promises nothing, since gateways keep their
records until a receipt. When the worker's buffer is full it pauses the connection: TCP and the broker's
in-flight limit push back to the gateways. All workers of the same partitions use the same client id, so a new
one takes the connection over from the old.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Protocol

from broker_bridge import contract
from broker_bridge.contract import Receipt
from broker_bridge.mqtt.client import Connection, ConnectionLostError, Messages, Options
from telemetry.backoff import Backoff
from telemetry.errors import FieldlineError

log = logging.getLogger(__name__)

RECONNECT_S_MAX = 5.0


class Taker(Protocol):
    """Who takes what comes up: called synchronously, must not block. False: the buffer is full now.

    payload_bytes: its true size. A payload in a packet over packet_bytes_max has lost its end.
    """

    def __call__(self, topic: str, payload: bytes, payload_bytes: int) -> bool: ...


class Downlink:
    """One worker's connection to the trunk's broker."""

    def __init__(
        self,
        options: Options,
        partitions: list[int],
        worker: str,
        take: Taker,
        before_connect: Callable[[], Awaitable[None]],
    ) -> None:
        self._options = options
        self._partitions = partitions
        self._worker = worker
        self._take = take
        self._before_connect = before_connect
        self._connection: Connection | None = None
        self._paused = False
        self.state = "not connected yet"

    async def run(self) -> None:
        """Stay connected until cancelled. `before_connect` may raise to end it."""
        backoff = Backoff(0.05, RECONNECT_S_MAX)
        while True:
            await self._before_connect()
            try:
                await self._session(backoff)
            except FieldlineError as error:
                self._say(str(error))
            await asyncio.sleep(backoff.next_s())

    async def _session(self, backoff: Backoff) -> None:
        connection = await Connection.open(self._options, self._on_messages)
        try:
            self._connection = connection  # from here on `resume` must reach it: SUBSCRIBE may bring messages at once
            await connection.subscribe([contract.up_filter(partition) for partition in self._partitions])
            if self._paused:  # not before: while paused, the answer to SUBSCRIBE cannot be read
                connection.pause()
            for partition in self._partitions:
                await connection.publish(contract.worker_topic(partition), self._worker.encode(), qos=0)
            backoff.reset()
            self._say(f"connected to {self._options.host}:{self._options.port}")
            raise ConnectionLostError(await connection.closed)
        finally:
            self._connection = None
            await connection.close()

    def _on_messages(self, messages: Messages, connection: Connection) -> None:
        for index, (topic, payload) in enumerate(zip(messages.topics, messages.payloads, strict=True)):
            payload_bytes = messages.oversized.get(index, len(payload))
            if not self._take(topic, payload, payload_bytes) and not self._paused:
                self._paused = True
                connection.pause()
        connection.ack(messages.packet_ids)

    def resume(self) -> None:
        """The buffer has room again."""
        if self._paused:
            self._paused = False
            if self._connection is not None:
                self._connection.resume()

    async def send_receipt(self, gateway: str, receipt: Receipt) -> None:
        """Tell a gateway; when there is no connection, its next hello will be answered."""
        connection = self._connection
        if connection is None:
            return
        try:
            await connection.publish(contract.receipt_topic(gateway), receipt.encode(), qos=0)
        except FieldlineError as error:  # the trunk is down, or MQTT does not allow the topic
            log.debug("A receipt for %.200r was not sent: %s", gateway, error)

    def _say(self, state: str) -> None:
        if state != self.state:
            log.info("Trunk: %s", state)
        self.state = state

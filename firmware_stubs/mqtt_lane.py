"""One MQTT connection (paho) that several devices of a fleet share, in a thread of its own.

QoS 1 with a kept session: what was not acknowledged when a connection broke is sent again, as the same
message, on the next one. At most `inflight_max` messages wait for their PUBACK.
"""

import threading
import time
from collections.abc import Iterator
from typing import Any

import paho.mqtt.client as mqtt

from firmware_stubs.counts import Book
from firmware_stubs.message import Message

RECONNECT_S_MAX = 2


class MqttLane:
    """Sends messages until they end or `stop` is set, then waits up to `linger_s` for outstanding PUBACKs."""

    def __init__(
        self,
        address: tuple[str, int],
        client_id: str,
        book: Book,
        stop: threading.Event,
        *,
        inflight_max: int,
        linger_s: float,
    ) -> None:
        self._address = address
        self._book = book
        self._stop = stop
        self._linger_s = linger_s
        self._places = threading.Semaphore(inflight_max)
        self._lock = threading.Lock()
        self._waiting: dict[int, Message] = {}
        self._early: set[int] = set()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=False)
        self._client.max_inflight_messages_set(inflight_max)
        self._client.reconnect_delay_set(1, RECONNECT_S_MAX)
        self._client.on_publish = self._on_publish

    def run(self, messages: Iterator[Message], started_s: float) -> None:
        """started_s: time.monotonic() at which `due_s` is 0."""
        self._client.connect_async(*self._address, keepalive=30)
        self._client.loop_start()
        try:
            for message in messages:
                if not self._send(message, started_s):
                    break
            self._wait_for_the_last()
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    def _send(self, message: Message, started_s: float) -> bool:
        wait_s = started_s + message.due_s - time.monotonic()
        if wait_s > 0 and self._stop.wait(wait_s):
            return False
        while not self._places.acquire(timeout=0.1):
            if self._stop.is_set():
                return False
        if self._stop.is_set():
            return False
        self._book.sent()
        info = self._client.publish(f"devices/{message.device}/telemetry", message.payload, qos=1)
        with self._lock:
            if info.mid not in self._early:
                self._waiting[info.mid] = message
                return True
            self._early.remove(info.mid)
        self._acked(message)
        return True

    def _on_publish(self, _client: object, _userdata: object, mid: int, *_: Any) -> None:
        with self._lock:
            message = self._waiting.pop(mid, None)
            if message is None:  # quicker than publish() returned
                self._early.add(mid)
                return
        self._acked(message)

    def _acked(self, message: Message) -> None:
        self._book.acked(message, "mqtt")
        self._places.release()

    def _wait_for_the_last(self) -> None:
        deadline_s = time.monotonic() + self._linger_s
        while self._waiting and time.monotonic() < deadline_s:
            time.sleep(0.01)
        self._book.unacked(len(self._waiting))

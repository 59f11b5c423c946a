"""A wind turbine's controller: publishes its measurements over MQTT 3.1.1, QoS 1.

    python -m firmware_stubs.turbine --broker 127.0.0.1:1883 --device R80711

What matters on the device: a message stays in the device's own backlog until the broker's PUBACK; after a
reconnect it goes again, as the same message (kept session, DUP); when the backlog is full, as a device with
little memory must have it, new measurements are dropped, and it says how many.
"""

import argparse
import json
import random
import signal
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from firmware_stubs import replay

BACKLOG_MAX = 1000


class Turbine:
    """`topic` is where this turbine's messages go. Thread-safe by one lock, as paho calls back from its own."""

    def __init__(self, broker: tuple[str, int], device: str) -> None:
        self.topic = f"devices/{device}/telemetry"
        self.confirmed = 0
        self.dropped = 0
        self._lock = threading.Lock()
        self._backlog: OrderedDict[int, bytes] = OrderedDict()
        self._early: set[int] = set()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id=f"turbine-{device}", clean_session=False)
        self._client.max_inflight_messages_set(20)
        self._client.max_queued_messages_set(BACKLOG_MAX)
        self._client.reconnect_delay_set(1, 30)
        self._client.on_publish = self._on_puback
        self._client.connect_async(*broker, keepalive=30)
        self._client.loop_start()

    def measure(self, values: dict[str, float | None], ts_ms: int) -> None:
        """Send one measurement, or keep it until the broker can be reached; or drop it when too many wait."""
        payload = json.dumps({"ts": ts_ms, **values}).encode()
        info = self._client.publish(self.topic, payload, qos=1)
        with self._lock:
            if info.rc == mqtt.MQTT_ERR_QUEUE_SIZE:
                self.dropped += 1
            elif info.mid in self._early:
                self._early.remove(info.mid)
                self.confirmed += 1
            else:
                self._backlog[info.mid] = payload

    def _on_puback(self, _client: object, _userdata: object, mid: int, *_: Any) -> None:
        with self._lock:
            if self._backlog.pop(mid, None) is None:
                self._early.add(mid)
            else:
                self.confirmed += 1

    @property
    def waiting(self) -> int:
        """Messages that the broker has not confirmed."""
        return len(self._backlog)

    def stop(self, seconds_max: float = 30.0) -> None:
        """Wait for the last confirmations, then say goodbye."""
        deadline_s = time.monotonic() + seconds_max
        while self.waiting and time.monotonic() < deadline_s:
            time.sleep(0.05)
        self._client.disconnect()
        self._client.loop_stop()


def main() -> int:
    parser = argparse.ArgumentParser(description="A wind turbine that publishes over MQTT.")
    parser.add_argument("--broker", type=_address, default="127.0.0.1:1883", metavar="HOST:PORT")
    parser.add_argument("--device", default="R80711", help="the turbine's name")
    parser.add_argument("--csv", type=Path, help="replay this turbine's rows of a recording")
    parser.add_argument("--speed", type=float, default=600.0, help="seconds of recorded time per second")
    parser.add_argument("--every-s", type=float, default=1.0, help="without --csv: seconds between measurements")
    parser.add_argument("--count", type=int, help="stop after so many messages")
    given = parser.parse_args()
    stopping = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stopping.set())
    turbine = Turbine(given.broker, given.device)
    started_s = time.monotonic()
    measured = 0
    trouble = ""
    try:
        for due_s, ts_ms, values in _measurements(given):
            wait_s = started_s + due_s - time.monotonic()
            if (wait_s > 0 and stopping.wait(wait_s)) or stopping.is_set() or measured == given.count:
                break
            turbine.measure(values, ts_ms or time.time_ns() // 1_000_000)
            measured += 1
    except (OSError, ValueError) as error:  # of the recording
        trouble = str(error)
    turbine.stop()
    counts = f"confirmed {turbine.confirmed}, waiting {turbine.waiting}, dropped {turbine.dropped}"
    print(f"{given.device}: measured {measured}, {counts}")
    if trouble:
        print(trouble, file=sys.stderr)
    return 1 if trouble or turbine.waiting else 0


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} must be HOST:PORT")
    return host, int(port)


def _measurements(given: argparse.Namespace) -> Any:
    """(due_s, ts_ms or 0 for now, values), from the recording or made up."""
    if given.csv:
        for message in replay.messages(given.csv, {given.device}, given.speed):
            values = json.loads(message.payload)
            yield message.due_s, values.pop("ts"), values
        return
    chance = random.Random(given.device)  # noqa: S311 - a simulation, not a secret
    wind, number = 8.0, 0
    while True:
        wind = max(0.0, wind + chance.gauss(0, 0.3))
        power = round(min(2050.0, 1.2 * wind**3), 1)
        yield number * given.every_s, 0, {"Ws_avg": round(wind, 2), "P_avg": power}
        number += 1


if __name__ == "__main__":
    sys.exit(main())

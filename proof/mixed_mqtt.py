"""The mixed devices of the drill that speak MQTT, on paho: one message after another; and a Sparkplug edge node.

A kept session: what was not acknowledged when a connection ended is sent again, by QoS 2 without becoming two.
"""

import itertools
import queue
import struct
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from proof.journal import Journal, Promise
from proof.payloads import ENCODERS, Values
from proof.rules import SPARKPLUG, topic

SESSION_S = 3600
LOOK_S = 0.1
REBIRTH_S = 1.0
DOUBLE, INT64, BOOLEAN = 10, 4, 11
"""Sparkplug's datatypes."""
REBIRTH = "Node Control/Rebirth"
ALIAS = 7


def _client(name: str, port: int, protocol: int) -> paho.Client:
    """A client that connects in the background and again."""
    is_5 = protocol == paho.MQTTv5
    client = paho.Client(
        paho.CallbackAPIVersion.VERSION2, name, clean_session=None if is_5 else False, protocol=protocol
    )
    client.reconnect_delay_set(1, 1)
    if is_5:
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = SESSION_S
        client.connect_async("127.0.0.1", port, keepalive=5, clean_start=False, properties=properties)
    else:
        client.connect_async("127.0.0.1", port, keepalive=5)
    return client


@dataclass(frozen=True, slots=True)
class Publisher:
    """A device. given_up: it need not wait for an answer any more."""

    device: str
    fmt: str
    port: int
    version: int
    qos: int
    journal: Journal
    given_up: threading.Event

    @property
    def via(self) -> str:
        return f"MQTT {'5' if self.version == paho.MQTTv5 else '3.1.1'} QoS {self.qos}"

    def run(self, messages: Iterator[tuple[int, Values]]) -> None:
        """Publish until the messages end, each until it is acknowledged."""
        client = _client(self.device, self.port, self.version)
        acknowledged = threading.Event()
        client.on_publish = lambda *_: acknowledged.set()
        client.loop_start()
        try:
            for at_ms, values in messages:
                acknowledged.clear()
                client.publish(topic(self.fmt, self.device), ENCODERS[self.fmt](at_ms, values), qos=self.qos)
                while not acknowledged.wait(LOOK_S):
                    if self.given_up.is_set():
                        self.journal.failed.append(f"{self.device} was left without an answer")
                        return
                self.journal.write(self.via, self.device, at_ms, values)
        finally:
            client.disconnect()
            client.loop_stop()


class EdgeNode:
    """A Sparkplug B edge node. QoS 0, as prescribed: nothing is promised while things break.

    In the end, when nothing breaks any more, it leaves gaps until the agent asks for a rebirth, and so is known to
    listen: what is said from then on must be stored.
    """

    def __init__(self, port: int, journal: Journal, given_up: threading.Event) -> None:
        self._journal, self._given_up = journal, given_up
        self._commands: queue.Queue[bytes] = queue.Queue()
        self._seq = itertools.count()
        self._promise: Promise = "said"
        self._client = _client("drill-sparkplug", port, paho.MQTTv311)
        self._client.on_message = lambda _client, _data, message: self._commands.put(message.payload)
        self._client.on_connect = lambda *_: self._client.subscribe(_spb("NCMD"), qos=1)
        self._client.will_set(_spb("NDEATH"), _payload(None, None, _metric("bdSeq", 0, INT64)), qos=1)

    def run(self, messages: Iterator[tuple[int, Values]]) -> None:
        """Say what there is to be said, and be born again whenever the agent asks."""
        self._client.loop_start()
        try:
            while not self._client.is_connected() and not self._given_up.wait(LOOK_S):
                pass
            self._birth(time.time_ns() // 1_000_000, 0.0)
            at_ms = 0
            for at_ms, values in messages:
                if self._is_asked():
                    self._birth(at_ms, values["plain"])
                else:
                    self._data(at_ms, values["plain"])
            while self._is_asked():
                pass  # before the last fault was over
            while not self._is_asked() and not self._given_up.wait(REBIRTH_S):
                next(self._seq)
                at_ms += 1
                self._data(at_ms, 1.0)
            self._promise = "once"
            self._birth(at_ms + 1, 2.0)
            self._data(at_ms + 2, 3.0)
        finally:
            self._client.disconnect()
            self._client.loop_stop()

    def _is_asked(self) -> bool:
        """Whether the agent has asked for a rebirth since it was asked for last."""
        return not self._commands.empty() and bool(self._commands.get())

    def _birth(self, at_ms: int, value: float) -> None:
        self._seq = itertools.count()
        metrics = _metric("bdSeq", 0, INT64), _metric(REBIRTH, 0, BOOLEAN), _metric("level", value, DOUBLE, ALIAS)
        said = {"bdSeq": 0.0, REBIRTH: 0.0, "sparkplug/online": 1.0, "level": value}
        self._publish("NBIRTH", at_ms, said, *metrics)

    def _data(self, at_ms: int, value: float) -> None:
        self._publish("NDATA", at_ms, {"level": value}, _metric(None, value, DOUBLE, ALIAS))

    def _publish(self, kind: str, at_ms: int, said: Values, *metrics: bytes) -> None:
        self._journal.write("Sparkplug B", SPARKPLUG, at_ms, said, self._promise)
        self._client.publish(_spb(kind), _payload(at_ms, next(self._seq) % 256, *metrics), qos=0)


def _spb(kind: str) -> str:
    group, node = SPARKPLUG.split("/")
    return f"spBv1.0/{group}/{kind}/{node}"


def _payload(at_ms: int | None, seq: int | None, *metrics: bytes) -> bytes:
    """Payload of sparkplug_b.proto: timestamp 1, metrics 2, seq 3."""
    head = b"" if at_ms is None else _field(1, at_ms)
    return head + b"".join(_field(2, metric) for metric in metrics) + (b"" if seq is None else _field(3, seq))


def _metric(name: str | None, value: float, datatype: int, alias: int | None = None) -> bytes:
    """Metric: name 1, alias 2, datatype 4, long_value 11, double_value 13, boolean_value 14."""
    said = b"" if name is None else _field(1, name.encode())
    said += b"" if alias is None else _field(2, alias)
    said += _field(4, datatype)
    if datatype == DOUBLE:
        return said + _varint(13 << 3 | 1) + struct.pack("<d", value)
    return said + _field(11 if datatype == INT64 else 14, int(value))


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    return _varint(number << 3 | 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    said = b""
    while value > 0x7F:
        said += bytes([value & 0x7F | 0x80])
        value >>= 7
    return said + bytes([value])

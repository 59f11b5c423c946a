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
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from proof.journal import Journal
from proof.payloads import ENCODERS, Values
from proof.rules import SPARKPLUG, topic

SESSION_S = 3600
LOOK_S = 0.1
NAMED_S_MAX = 1.0


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


DOUBLE, INT64, BOOLEAN = 10, 4, 11
REBIRTH = "Node Control/Rebirth"
ALIAS = 7


def edge_node(port: int, journal: Journal, messages: Iterator[tuple[int, Values]], given_up: threading.Event) -> None:
    """A Sparkplug B edge node. QoS 0, as prescribed: nothing is promised while things break.

    In the end, when nothing breaks any more, it leaves a gap until the agent asks for a rebirth, and so is known to
    listen: what is said from then on must be stored.
    """
    client = _client("drill-sparkplug", port, paho.MQTTv311)
    commands: queue.Queue[bytes] = queue.Queue()
    client.on_message = lambda _client, _data, message: commands.put(message.payload)
    client.on_connect = lambda *_: client.subscribe(_spb("NCMD"), qos=1)
    client.will_set(_spb("NDEATH"), _payload(None, None, _metric("bdSeq", 0, INT64)), qos=1)
    client.loop_start()
    seq = itertools.count()
    try:
        _wait(client.is_connected, given_up)
        _birth(client, journal, seq, time.time_ns() // 1_000_000, 0.0, must=False)
        at_ms = 0
        for at_ms, values in messages:
            if not commands.empty():
                commands.get()
                seq = itertools.count()
                _birth(client, journal, seq, at_ms, values["plain"], must=False)
            else:
                _data(client, journal, seq, at_ms, values["plain"], must=False)
        while commands.empty() and not given_up.is_set():
            next(seq)
            at_ms += 1
            _data(client, journal, seq, at_ms, 1.0, must=False)
            time.sleep(NAMED_S_MAX)
        seq = itertools.count()
        _birth(client, journal, seq, at_ms + 1, 2.0, must=True)
        _data(client, journal, seq, at_ms + 2, 3.0, must=True)
    finally:
        client.disconnect()
        client.loop_stop()


def _wait(condition: Any, given_up: threading.Event) -> None:
    while not condition() and not given_up.wait(LOOK_S):
        pass


def _birth(client: paho.Client, journal: Journal, seq: Iterator[int], at_ms: int, value: float, *, must: bool) -> None:
    metrics = (
        _metric("bdSeq", 0, INT64),
        _metric(REBIRTH, 0, BOOLEAN),
        _metric("level", value, DOUBLE, ALIAS),
    )
    said = {"bdSeq": 0.0, REBIRTH: 0.0, "sparkplug/online": 1.0, "level": value}
    _publish(client, journal, "NBIRTH", _payload(at_ms, next(seq) % 256, *metrics), at_ms, said, must=must)


def _data(client: paho.Client, journal: Journal, seq: Iterator[int], at_ms: int, value: float, *, must: bool) -> None:
    payload = _payload(at_ms, next(seq) % 256, _metric(None, value, DOUBLE, ALIAS))
    _publish(client, journal, "NDATA", payload, at_ms, {"level": value}, must=must)


def _publish(
    client: paho.Client, journal: Journal, kind: str, payload: bytes, at_ms: int, said: Values, *, must: bool
) -> None:
    journal.write("Sparkplug B", SPARKPLUG, at_ms, said, "once" if must else "said")
    client.publish(_spb(kind), payload, qos=0)


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

"""A publisher that costs little, in a process of its own: `python -m bench.publisher PORT --devices 9 --messages 99`.

Devices publish JSON objects of numbers with QoS 1, over one connection, one after the other, round by round. Packets
are put together from parts made beforehand, all that are due in one write; PUBACKs are only counted.
"""

import argparse
import itertools
import random
import select
import socket
import sys
import time
from collections.abc import Iterator

from broker_bridge.mqtt import encode

INFLIGHT_MAX, WRITE_MAX = 2_000, 500
VARIANTS = 8_191
"""Different payloads, all of one length: more than messages in a batch, so that compression finds no repetition."""
PUBACK_BYTES = CONNACK_BYTES = 4


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.publisher", description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--devices", type=int, default=1000)
    parser.add_argument("--metrics", type=int, default=4)
    parser.add_argument("--messages", type=int, default=1000)
    parser.add_argument(
        "--rate", type=float, default=0, help="messages per second; 0: as fast as they are acknowledged"
    )
    given = parser.parse_args()
    packets = _packets(given.devices, given.metrics)
    with socket.create_connection(("127.0.0.1", given.port)) as broker:
        broker.sendall(encode.connect("bench-publisher", 0, clean_session=True))
        assert broker.recv(CONNACK_BYTES) == b"\x20\x02\x00\x00", "the broker refuses the connection"
        _send(broker, packets, given.messages, given.rate)


def _packets(devices: int, metrics: int) -> Iterator[bytes]:
    """Endless. A packet is a head with the topic, a packet id, and a payload."""
    chance = random.Random(1)
    payloads = [_payload(metrics, chance) for _ in range(VARIANTS)]
    heads = []
    for device in range(devices):
        packet = encode.publish(f"devices/dev-{device:06}/telemetry", payloads[0], packet_id=1)
        heads.append(packet[: -len(payloads[0]) - 2])
    ids = itertools.cycle([id_.to_bytes(2, "big") for id_ in range(1, 65536)])
    parts = zip(itertools.cycle(heads), ids, itertools.cycle(payloads), strict=False)
    return (head + id_ + payload for head, id_, payload in parts)


def _payload(metrics: int, chance: random.Random) -> bytes:
    numbers = (f'"metric{number:02}":{chance.randrange(1000, 10000) / 100:.2f}' for number in range(metrics))
    return ("{" + ",".join(numbers) + "}").encode()


def _send(broker: socket.socket, packets: Iterator[bytes], messages: int, rate_hz: float) -> None:
    sent, acknowledged_bytes, began_s = 0, 0, time.monotonic()
    while (acknowledged := acknowledged_bytes // PUBACK_BYTES) < messages:
        due = min(messages, int((time.monotonic() - began_s) * rate_hz)) if rate_hz else messages
        count = max(0, min(due - sent, INFLIGHT_MAX - (sent - acknowledged), WRITE_MAX))
        broker.sendall(b"".join(itertools.islice(packets, count)))
        sent += count
        readable, _, _ = select.select([broker], [], [], 0 if count else 0.002)
        if readable:
            answer = broker.recv(1 << 16)
            assert answer, "the broker has closed the connection"
            acknowledged_bytes += len(answer)


def command(port: int, **options: float) -> list[str]:
    """Its command line."""
    return [sys.executable, "-m", "bench.publisher", str(port), *(f"--{key}={value}" for key, value in options.items())]


if __name__ == "__main__":
    main()

"""What the devices of the comparison publish, and what the table must hold afterwards, value by value.

Message number i comes from device i modulo DEVICES and carries the time START_MS + i, so no two readings are the same:
a reading that is stored twice is one too many, wherever it came from. Numbers have few decimals, as sensors' have.
"""

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterable

from bench.parts import connected, publish_all
from ingest.clickhouse.client import Client
from proof.checker import Values

DEVICES = 100
METRICS = ("temperature", "humidity", "pressure")
START_MS = 1_760_000_000_000
INFLIGHT_MAX = 1000
TICK_S = 0.02


def device(number: int, devices: int = DEVICES) -> str:
    return f"dev-{number % devices:04}"


def values(number: int) -> tuple[float, ...]:
    """One for each of METRICS."""
    return (
        round(20 + number % 1009 / 100, 2),
        round(40 + number % 701 / 10, 1),
        round(1000 + number % 499 / 10, 1),
    )


def message(number: int, devices: int = DEVICES) -> tuple[str, bytes]:
    """Its topic and payload, if so many devices take turns."""
    fields = {"ts": START_MS + number, **dict(zip(METRICS, values(number), strict=True))}
    return f"devices/{device(number, devices)}/telemetry", json.dumps(fields).encode()


def told(numbers: Iterable[int]) -> Values:
    """The readings in these messages."""
    return Counter(
        (device(number), metric, START_MS + number, value)
        for number in numbers
        for metric, value in zip(METRICS, values(number), strict=True)
    )


def held(client: Client, table: str) -> Values:
    """What a table holds of them; that of other devices is left out."""
    rows = client.query(
        "SELECT device, metric, toUnixTimestamp64Milli(measured_at), value, count() "
        f"FROM {table} WHERE startsWith(device, 'dev-') GROUP BY device, metric, measured_at, value"
    ).result_rows
    return Counter({(row[0], row[1], row[2], row[3]): row[4] for row in rows})


async def publish(port: int, numbers: range) -> None:
    """As fast as the broker takes them; returns when it has acknowledged all."""
    messages = [message(number) for number in numbers]
    async with connected(port, "bench-devices", inflight_max=INFLIGHT_MAX) as devices:
        await publish_all(devices, messages)


async def publish_paced(port: int, numbers: range, rate_hz: float, devices_number: int = DEVICES) -> None:
    """So many a second; returns when the broker has acknowledged all."""
    async with connected(port, "bench-devices", inflight_max=INFLIGHT_MAX) as devices:
        began_s, sent = time.perf_counter(), 0
        while sent < len(numbers):
            due = min(int((time.perf_counter() - began_s) * rate_hz) + 1, len(numbers))
            await publish_all(devices, [message(number, devices_number) for number in numbers[sent:due]])
            sent = due
            await asyncio.sleep(TICK_S)

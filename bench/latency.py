"""Latency with default settings: from a device's publish to visible in a SELECT, p50 and p99."""

import asyncio
import time
from pathlib import Path

from bench.figure import Figure
from bench.parts import connected, stack, until
from ingest.clickhouse.client import Client
from proof.ports import free_ports

PROBES, EVERY_S, LOOK_EVERY_S = 120, 0.11, 0.02


def run(directory: Path) -> list[Figure]:
    return asyncio.run(_run(directory))


async def _run(directory: Path) -> list[Figure]:
    pipeline = stack(directory, free_ports())
    async with pipeline.running():
        client = pipeline.client()
        await until(lambda: pipeline.spool_status() is not None, "the agent runs")
        sent: dict[int, float] = {}
        seen: dict[int, float] = {}
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_publish(pipeline.ports.mqtt, sent))
            tasks.create_task(_look(client, seen))
        client.close()
    delays = sorted(seen[number] - at_s for number, at_s in sent.items())
    return [
        Figure("published to queryable, p50", delays[len(delays) // 2], "s", at_most=1.5),
        Figure("published to queryable, p99", delays[int(len(delays) * 0.99)], "s", at_most=3),
    ]


async def _publish(port: int, sent: dict[int, float]) -> None:
    async with connected(port, "bench-probe") as device:
        for number in range(1, PROBES + 1):
            sent[number] = time.perf_counter()
            await device.publish("devices/probe/telemetry", b'{"n": %d}' % number)
            await asyncio.sleep(EVERY_S)


async def _look(client: Client, seen: dict[int, float]) -> None:
    """Note when each probe is seen first; they arrive in order."""
    query = "SELECT toUInt32(max(value)) FROM fieldline.readings WHERE device = 'probe' AND metric = 'n'"
    last = 0
    while last < PROBES:
        asked_s = time.perf_counter()
        ((newest,),) = (await asyncio.to_thread(client.query, query)).result_rows
        for number in range(last + 1, newest + 1):
            seen[number] = time.perf_counter()
        last = max(last, newest)
        await asyncio.sleep(max(0, LOOK_EVERY_S - (time.perf_counter() - asked_s)))

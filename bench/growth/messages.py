"""Messages per second from 1 to the limit: what each part takes of the processor, how late readings are, where it ends.

The limit is of the machine: the publisher, two brokers, the agent, ingest and ClickHouse share its processors. It is
reached when less than KEPT_UP of what is published is stored in the same time; the next rates are left out.
"""

import asyncio
import time
from contextlib import closing
from pathlib import Path

from bench.figure import Figure, Table
from bench.latency import Probes
from bench.parts import cpu_s, stack, warm
from bench.picture import curves, label, panels, save
from bench.publisher import command
from ingest.clickhouse.client import Client
from proof.ports import free_ports
from proof.stack import Stack

RATES_HZ = (1, 10, 100, 1_000, 3_000, 10_000, 20_000, 30_000, 40_000, 60_000, 80_000, 100_000)
DEVICES, METRICS = 1_000, 4
WARM_UP_S, SECONDS = 3, 8
KEPT_UP = 0.9  # a commit more or less is 6 % of what is stored in SECONDS
PARTS = ("edge", "ingest", "clickhouse", "device-broker", "trunk-broker", "publisher")
HEADINGS = (
    "messages/s",
    "readings stored/s",
    "p50 ms",
    "p99 ms",
    "agent µs/message",
    *(f"{part} cores" for part in PARTS),
)


def run(directory: Path) -> list[Figure | Table]:
    rows = asyncio.run(_rows(directory))
    _draw(rows, directory / "growth-messages.png")
    most = max(rows, key=lambda row: row[1])
    title = f"Messages per second, of {METRICS} readings, {DEVICES:,} devices"
    return [
        Figure("growth: readings stored per second, most", most[1], "/s"),
        Table("growth-messages", title, HEADINGS, rows),
    ]


async def _rows(directory: Path) -> list[list[float]]:
    pipeline = stack(directory, free_ports())
    rows: list[list[float]] = []
    async with pipeline.running():
        with closing(await asyncio.to_thread(pipeline.client)) as client:
            await warm(pipeline)
            for rate_hz in RATES_HZ:
                rows.append(await _at(pipeline, client, rate_hz))
                if rows[-1][1] < KEPT_UP * rate_hz * METRICS and rate_hz > RATES_HZ[0]:
                    break
    return rows


async def _at(pipeline: Stack, client: Client, rate_hz: int) -> list[float]:
    messages = rate_hz * 1000  # more than are wanted: it is stopped
    options = {"devices": DEVICES, "metrics": METRICS, "rate": rate_hz, "messages": messages}
    publisher = pipeline.add("publisher", command(pipeline.ports.mqtt, **options), restart=False)
    publisher.start()
    await asyncio.sleep(WARM_UP_S)
    try:
        probes = Probes(pipeline.ports.mqtt, client, f"probe-{rate_hz}")
        probing = asyncio.create_task(probes.run())
        pids = [pipeline.programs[name].pid for name in PARTS]
        before, began_s, stored = list(map(cpu_s, pids)), time.perf_counter(), _stored(client)
        await asyncio.sleep(SECONDS)
        took_s = time.perf_counter() - began_s
        cores = [(cpu_s(pid) - was) / took_s for pid, was in zip(pids, before, strict=True)]
        stored_hz = (_stored(client) - stored) / took_s
        probes.stop()
    finally:
        await publisher.stop()
    await probing
    delays_ms = (1000 * probes.quantile(share) for share in (0.5, 0.99))
    per_message_us = 1e6 * cores[0] * METRICS / stored_hz
    return [
        rate_hz,
        round(stored_hz),
        *(round(ms) for ms in delays_ms),
        round(per_message_us, 1),
        *(round(c, 3) for c in cores),
    ]


def _stored(client: Client) -> int:
    ((rows,),) = client.query("SELECT count() FROM fieldline.readings").result_rows
    return int(rows)


def _draw(rows: list[list[float]], path: Path) -> None:
    canvas, (stored, late, cores) = panels("Messages of four readings per second", 1, 3, (13, 4))
    curves(stored, rows, {"stored": 1}, log="xy")
    curves(stored, [[row[0], METRICS * row[0]] for row in rows], {"published": 1}, log="xy", colour=5)
    label(stored, "What is stored", "messages/s", "readings/s")
    curves(late, rows, {"p50": 2, "p99": 3})
    label(late, "From publish to queryable", "messages/s", "ms")
    curves(cores, rows, {part: 5 + number for number, part in enumerate(PARTS)})
    label(cores, "Who takes the processor", "messages/s", "cores")
    save(canvas, path)

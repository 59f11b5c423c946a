"""Gateways at one ingest worker, 1 to 10,000: the same rows in the same number of batches, of ever more gateways.

The batches are made beforehand and published as fast as the trunk's broker takes them; the time ends with the last
gateway's receipt. Then the worker is started anew, and asked by one gateway: how long until it has taken over.
"""

import asyncio
import random
import time
from contextlib import closing
from pathlib import Path

from bench.figure import Figure, Table
from bench.parts import connected, cpu_s, publish_all, resident_mb, stack
from bench.picture import curves, label, panels, save
from broker_bridge import contract
from broker_bridge.contract import Hello, Receipt
from broker_bridge.mqtt.client import Connection, Messages, Options
from proof.ports import free_ports
from proof.stack import Stack
from telemetry import wire
from telemetry.columns import Columns, Series

GATEWAYS = (1, 10, 100, 1_000, 10_000)
BATCHES, ROWS, SERIES = 10_000, 100, 20
PARTITIONS = 16
START_MS = 1_750_000_000_000
HEADINGS = ("gateways", "rows/s", "µs of ingest/batch", "receipts", "memory MB", "commits", "taken over s")


def run(directory: Path) -> list[Figure | Table]:
    rows = [asyncio.run(_row(directory / f"{gateways}", gateways)) for gateways in GATEWAYS]
    _draw(rows, directory / "growth-gateways.png")
    title = f"Gateways at one ingest worker, {BATCHES:,} batches of {ROWS} rows"
    return [
        Figure(
            f"growth: ingest, rows per second with {GATEWAYS[-1]:,} gateways against {GATEWAYS[0]}",
            rows[-1][1] / rows[0][1],
            "",
        ),
        Table("growth-gateways", title, HEADINGS, rows),
    ]


class Receipts:
    """Listens to the receipts of an epoch and knows which gateways have not got their last one."""

    def __init__(self, gateways: int) -> None:
        self.count = 0
        self.left = {f"gateway-{number}" for number in range(gateways)}
        self.mark = BATCHES // gateways * ROWS
        self.done = asyncio.Event()
        self.came = asyncio.Event()

    def take(self, messages: Messages, _connection: Connection) -> None:
        self.came.set()
        for topic, payload in zip(messages.topics, messages.payloads, strict=True):
            self.count += 1
            if Receipt.decode(payload).mark == self.mark:
                self.left.discard(topic.rsplit("/", 1)[1])
        if not self.left:
            self.done.set()


async def _row(directory: Path, gateways: int) -> list[float]:
    messages = await asyncio.to_thread(batches, gateways)
    pipeline = stack(directory, free_ports())
    async with pipeline.running(["trunk-broker", "clickhouse", "ingest"]):
        receipts = Receipts(gateways)
        listening = await Connection.open(Options("127.0.0.1", pipeline.ports.trunk, "bench-receipts"), receipts.take)
        await listening.subscribe([contract.receipt_topic("+")], qos=0)
        try:
            await _hear(pipeline, receipts)
            pid = pipeline.programs["ingest"].pid
            before_s, began_s = cpu_s(pid), time.perf_counter()
            async with connected(pipeline.ports.trunk, "bench-publisher") as publisher:
                await publish_all(publisher, messages)
                async with asyncio.timeout(120):
                    await receipts.done.wait()
            took_s, worked_s = time.perf_counter() - began_s, cpu_s(pid) - before_s
            memory_mb, count = resident_mb(pid), receipts.count
            with closing(await asyncio.to_thread(pipeline.client)) as client:
                ((rows, commits),) = client.query(
                    "SELECT count(), uniqExact(ingested_at) FROM fieldline.readings"
                ).result_rows
            assert rows == BATCHES * ROWS, f"{rows} rows are stored"
            await pipeline.programs["ingest"].stop()
            began_s = time.perf_counter()
            await pipeline.start("ingest")
            await _hear(pipeline, receipts)
            again_s = time.perf_counter() - began_s
        finally:
            await listening.close()
    per_batch_us = 1e6 * worked_s / BATCHES
    return [gateways, round(rows / took_s), round(per_batch_us), count, round(memory_mb, 1), commits, round(again_s, 2)]


async def _hear(pipeline: Stack, receipts: Receipts) -> None:
    """Say hello as the first gateway until a worker answers."""
    receipts.came.clear()
    topic = contract.up_topic(contract.partition_of("gateway-0", PARTITIONS), "hello", "gateway-0")
    async with connected(pipeline.ports.trunk, "bench-hello") as gateway:
        for _ in range(1200):
            await gateway.publish(topic, Hello("e").encode(), qos=0)
            try:
                async with asyncio.timeout(0.05):
                    await receipts.came.wait()
                    return
            except TimeoutError:
                continue
    raise TimeoutError(f"no worker answers:\n{pipeline.programs['ingest'].tail()}")


def batches(gateways: int) -> list[tuple[str, bytes]]:
    """BATCHES of ROWS rows as the trunk's messages, the gateways in turn."""
    chance = random.Random(1)
    messages = []
    for first in range(1, BATCHES // gateways * ROWS, ROWS):
        for number in range(gateways):
            gateway = f"gateway-{number}"
            columns = Columns()
            columns.series.extend(row % SERIES for row in range(ROWS))
            columns.measured_at.extend(START_MS + (first + row) * 10 for row in range(ROWS))
            columns.received_at.extend(START_MS + (first + row) * 10 + 20 for row in range(ROWS))
            columns.value.extend(round(chance.uniform(0, 100), 2) for _ in range(ROWS))
            columns.quality.extend([0] * ROWS)
            header = wire.Header(gateway, "e", first, ROWS)
            payload = wire.encode(header, columns, lambda id_, n=number: Series(f"dev-{n}", f"metric-{id_}", ""))
            partition = contract.partition_of(gateway, PARTITIONS)
            messages.append((contract.up_topic(partition, "batch", gateway), payload))
    return messages


def _draw(rows: list[list[float]], path: Path) -> None:
    canvas, found = panels(f"Gateways at one ingest worker, the same {BATCHES:,} batches of {ROWS} rows", 1, 4, (15, 4))
    what = (("Stored", 1, "rows/s"), ("Processor time of a batch", 2, "µs"), ("Ingest, resident memory", 4, "MB"))
    for panel, (title, at, unit) in zip(found, (*what, ("A new worker has taken over", 6, "s")), strict=True):
        curves(panel, rows, {"": at})
        label(panel, title, "gateways", unit)
    save(canvas, path)

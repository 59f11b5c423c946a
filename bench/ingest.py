"""Ingest: rows per second from the trunk broker to committed, against bare `insert_arrow` of the same rows.

Both go into the same ClickHouse process over HTTP. The batches are encoded beforehand and published as fast
as the broker takes them; the time ends with the receipt that covers the last of them.
"""

import asyncio
import random
import statistics
import time
from pathlib import Path

import numpy as np
import pyarrow as pa

from bench.figure import Figure
from bench.parts import connected, publish_all, stack
from broker_bridge import contract
from broker_bridge.mqtt.client import Connection, Messages, Options
from ingest.clickhouse.client import INSERT_SETTINGS, Client, known
from ingest.tables import READINGS
from proof.ports import free_ports
from telemetry import wire
from telemetry.columns import Columns, Series

ROWS, GATEWAYS, BATCH_ROWS, BLOCK_ROWS, ROUNDS = 2_000_000, 20, 10_000, 200_000, 3
START_MS = 1_750_000_000_000
PARTITIONS = 16


def run(directory: Path) -> list[Figure]:
    return asyncio.run(_run(directory))


async def _run(directory: Path) -> list[Figure]:
    pipeline = stack(directory, free_ports())
    async with pipeline.running(["trunk-broker", "clickhouse", "ingest"]):
        client = pipeline.client()
        client.command("CREATE TABLE fieldline.bare AS fieldline.readings")
        bare = _bare_table()
        ours, theirs = [], []
        for round_ in range(ROUNDS + 1):  # the first one warms up
            messages = await asyncio.to_thread(batches, f"e{round_}")
            theirs.append(await asyncio.to_thread(_insert_bare, client, bare))
            ours.append(await through_the_trunk(pipeline.ports.trunk, messages, f"e{round_}"))
            client.command("TRUNCATE TABLE fieldline.bare")
        stored = client.query("SELECT count() FROM fieldline.readings").result_rows[0][0]
        assert stored == ROWS * (ROUNDS + 1), f"{stored} rows are stored"
        client.close()
    ratio = statistics.median(b / o for o, b in zip(ours[1:], theirs[1:], strict=True))
    return [
        Figure("ingest, trunk broker to committed, against bare insert_arrow", ratio, "", at_least=0.6),
        Figure("ingest, rows per second", ROWS / statistics.median(ours[1:]), "rows/s"),
        Figure("bare insert_arrow, rows per second", ROWS / statistics.median(theirs[1:]), "rows/s"),
    ]


def batches(epoch: str) -> list[tuple[str, bytes]]:
    """ROWS rows of GATEWAYS gateways, as the trunk's messages."""
    chance = random.Random(1)
    messages = []
    per_gateway = ROWS // GATEWAYS
    values = [round(chance.uniform(0, 2000), 2) for _ in range(BATCH_ROWS)]
    for first in range(1, per_gateway + 1, BATCH_ROWS):
        for number in range(GATEWAYS):
            gateway = f"gateway-{number}"
            columns = Columns()
            columns.series.extend(i % 70 for i in range(BATCH_ROWS))
            columns.measured_at.extend(START_MS + (first + i) // 7 * 100 for i in range(BATCH_ROWS))
            columns.received_at.extend(START_MS + (first + i) // 7 * 100 + 20 for i in range(BATCH_ROWS))
            chance.shuffle(values)
            columns.value.extend(values)
            columns.quality.extend([0] * BATCH_ROWS)
            header = wire.Header(gateway, epoch, first, BATCH_ROWS)
            payload = wire.encode(
                header, columns, lambda id_, n=number: Series(f"dev-{n}-{id_ // 7}", f"metric_{id_ % 7}", "u")
            )
            partition = contract.partition_of(gateway, PARTITIONS)
            messages.append((contract.up_topic(partition, "batch", gateway), payload))
    return messages


def _bare_table() -> pa.Table:
    """One block of the same kind of rows."""
    chance = np.random.default_rng(1)
    n = BLOCK_ROWS
    rows = np.arange(n)

    def coded(codes: np.ndarray, names: list[str]) -> pa.DictionaryArray:
        return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(names))

    at = START_MS + rows // 7 // 10 * 100
    arrays = [
        coded(rows // 7 % 200, [f"dev-{i % 20}-{i // 20}" for i in range(200)]),
        coded(rows % 7, [f"metric_{i}" for i in range(7)]),
        pa.array(at).cast(pa.timestamp("ms", "UTC")),
        pa.array(at + 20).cast(pa.timestamp("ms", "UTC")),
        pa.array(np.full(n, START_MS)).cast(pa.timestamp("ms", "UTC")),
        pa.array(np.round(chance.uniform(0, 2000, n), 2)),
        coded(np.zeros(n), [""]),
        coded(np.zeros(n), ["u"]),
        pa.array(np.zeros(n, np.uint8)),
        coded(rows // 10_000 % 20, [f"gateway-{i}" for i in range(20)]),
        coded(np.zeros(n), ["bare"]),
        pa.array(rows.astype(np.uint64)),
    ]
    return pa.Table.from_arrays(arrays, schema=READINGS.schema)


def _insert_bare(client: Client, block: pa.Table) -> float:
    settings = known(client, INSERT_SETTINGS)
    settings["insert_deduplicate"] = 0
    began = time.perf_counter()
    for _ in range(ROWS // BLOCK_ROWS):
        client.insert_arrow("bare", block, database="fieldline", settings=settings)
    return time.perf_counter() - began


async def through_the_trunk(port: int, messages: list[tuple[str, bytes]], epoch: str) -> float:
    """Publish them; seconds until the last receipt."""
    left = {f"gateway-{number}" for number in range(GATEWAYS)}
    done = asyncio.Event()

    def on_receipts(received: Messages, connection: Connection) -> None:
        for topic, payload in zip(received.topics, received.payloads, strict=True):
            receipt = contract.Receipt.decode(payload)
            if receipt.epoch == epoch and receipt.mark == ROWS // GATEWAYS:
                left.discard(topic.rsplit("/", 1)[1])
        if not left:
            done.set()
        connection.ack(received.packet_ids)

    receipts = await Connection.open(Options("127.0.0.1", port, "bench-receipts"), on_receipts)
    try:
        await receipts.subscribe([contract.receipt_topic("+")])
        async with connected(port, "bench-publisher") as publisher:
            began = time.perf_counter()
            await publish_all(publisher, messages)
            async with asyncio.timeout(120):
                await done.wait()
            return time.perf_counter() - began
    finally:
        await receipts.close()

"""Ingest: rows per second from the trunk broker to committed, against bare inserts of the same rows.

All go into the same ClickHouse process over HTTP, each round into empty tables. The batches are encoded beforehand and
published as fast as the broker takes them; the time ends with the receipt that covers the last of them, and has in it
that the last rows, too few for a whole commit, wait for company. The bare inserts send the blocks that ingest makes of
the first BARE_ROWS rows, without fence, token, intent and ledger: by `insert_arrow`, and as Native that was encoded
beforehand, which nobody can reach who has to make his blocks. The budget is held against the faster of the two.

Then one writer commits the same rows by itself, stage by stage (bench/commit.py).
"""

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from bench.commit import stages
from bench.figure import Figure
from bench.parts import connected, publish_all, stack
from broker_bridge import contract
from broker_bridge.mqtt.client import Connection, Messages, Options
from ingest.admit import Slice
from ingest.blocks import Block, blocks
from ingest.clickhouse.client import INSERT_SETTINGS, Client, insert, known
from ingest.decode import decode
from ingest.native import FORMAT, encode
from ingest.tables import READINGS
from proof.ports import free_ports
from telemetry import wire
from telemetry.columns import Columns, Series

ROWS, BARE_ROWS, ROUNDS = 8_000_000, 2_000_000, 4
GATEWAYS, BATCH_ROWS, BLOCK_ROWS = 20, 10_000, 200_000
START_MS = 1_750_000_000_000
PARTITIONS = 16


def run(directory: Path) -> list[Figure]:
    return asyncio.run(_run(directory))


async def _run(directory: Path) -> list[Figure]:
    pipeline = stack(directory, free_ports())
    ours, arrow, native = [], [], []  # rows per second
    async with pipeline.running(["trunk-broker", "clickhouse", "ingest"]):
        client = pipeline.client()
        client.command("CREATE TABLE fieldline.bare AS fieldline.readings")
        for round_ in range(ROUNDS + 1):  # the first one warms up
            messages = await asyncio.to_thread(batches, f"e{round_}")
            first = messages[: BARE_ROWS // BATCH_ROWS]
            made = await asyncio.to_thread(blocks_of, first)
            for rates, insert_all in ((arrow, _insert_arrow), (native, _insert_native)):
                rates.append(BARE_ROWS / await asyncio.to_thread(insert_all, client, made))
                _check_and_empty(client, "bare", BARE_ROWS)
            ours.append(ROWS / await through_the_trunk(pipeline.ports.trunk, messages, f"e{round_}"))
            _check_and_empty(client, "readings", ROWS)
        parts = await asyncio.to_thread(stages, client, PARTITIONS, first, BLOCK_ROWS // BATCH_ROWS)
        client.close()

    def ratio(theirs: Callable[[float, float], float]) -> float:
        rounds = zip(ours[1:], arrow[1:], native[1:], strict=True)
        return statistics.median(rate / theirs(by_arrow, by_native) for rate, by_arrow, by_native in rounds)

    return [
        Figure("ingest, trunk broker to committed, against the faster bare insert", ratio(max), "", at_least=0.6),
        Figure("the same, against bare insert_arrow", ratio(lambda by_arrow, _: by_arrow), ""),
        Figure("the same, against bare Native, encoded beforehand", ratio(lambda _, by_native: by_native), ""),
        Figure("ingest, rows per second", statistics.median(ours[1:]), "rows/s"),
        Figure("bare insert_arrow, rows per second", statistics.median(arrow[1:]), "rows/s"),
        Figure("bare Native, rows per second", statistics.median(native[1:]), "rows/s"),
        *parts,
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


def blocks_of(messages: list[tuple[str, bytes]]) -> list[Block]:
    """What ingest makes of these messages when each commit has BLOCK_ROWS rows."""
    made = []
    for first in range(0, len(messages), BLOCK_ROWS // BATCH_ROWS):
        some = messages[first : first + BLOCK_ROWS // BATCH_ROWS]
        decoded = [decode(payload, topic.rsplit("/", 1)[1]) for topic, payload in some]
        made += blocks([Slice(batch, 0, batch.header.count) for batch in decoded], START_MS)
    return made


def _insert_arrow(client: Client, made: list[Block]) -> float:
    settings = _bare_settings(client)
    began = time.perf_counter()
    for block in made:
        client.insert_arrow("bare", block.rows, database="fieldline", settings=settings)
    return time.perf_counter() - began


def _insert_native(client: Client, made: list[Block]) -> float:
    settings = _bare_settings(client)
    statement = f"INSERT INTO fieldline.bare ({READINGS.names}) FORMAT {FORMAT}"
    bodies = [encode(block.target, block.rows) for block in made]
    began = time.perf_counter()
    for body in bodies:
        insert(client, statement, body, settings)
    return time.perf_counter() - began


def _bare_settings(client: Client) -> dict[str, int | str]:
    return known(client, {**INSERT_SETTINGS, "insert_deduplicate": 0})


def _check_and_empty(client: Client, table: str, rows: int) -> None:
    stored = client.query(f"SELECT count() FROM fieldline.{table}").result_rows[0][0]
    assert stored == rows, f"{stored} rows are stored"
    client.command(f"TRUNCATE TABLE fieldline.{table}")


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

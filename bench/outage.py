"""After an outage: how large the backlog is, how fresh live readings stay while it drains, and a fleet that comes back.

Accelerated: the spools are filled through their own interface with the times of the outage in them, as fast as it goes.
What follows is real: agent or uplinks, broker, ingest, ClickHouse.
"""

import asyncio
import random
import shutil
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

from analytics.account import fetch
from bench.figure import Figure
from bench.latency import Probes
from bench.parts import resident_mb, stack, until
from broker_bridge.mqtt.client import Options
from broker_bridge.uplink import Uplink
from edge_agent.config import Spool as SpoolConfig
from edge_agent.config import Uplink as UplinkConfig
from edge_agent.journal import JOURNAL_KEYS_MAX
from edge_agent.spool import Spool, open_spool
from edge_agent.spool_file import read_status
from proof.ports import free_ports
from proof.stack import GATEWAY, Stack
from telemetry.clock import SystemClock
from telemetry.columns import Columns, Series

COMMIT_BYTES, READING_BYTES = 64, 10.5
"""What a spool takes on disk, for a commit and for each reading in it, as long as it has few (docs/spool.md)."""
JOURNAL_BYTES = 35
"""And for each of the last commits, whose messages it can still recognise."""
DELAY_S_MAX = 5.0


@dataclass(frozen=True, slots=True)
class Outage:
    """How long, and what a gateway's devices sent. With few messages a second each is a commit of its own."""

    days: float = 10
    devices: int = 200
    metrics: int = 4
    every_s: float = 300
    commit_messages: int = 1

    @property
    def messages(self) -> int:
        return int(self.days * 86400 / self.every_s) * self.devices

    @property
    def readings(self) -> int:
        return self.messages * self.metrics

    @property
    def bytes_predicted(self) -> int:
        commits = self.messages // self.commit_messages
        journal = min(commits, JOURNAL_KEYS_MAX) * JOURNAL_BYTES
        return round(commits * COMMIT_BYTES + self.readings * READING_BYTES + journal)

    def fill(self, path: Path, gateway: str) -> None:
        """A spool with all of it, that ends now. Its commits are not synced one by one: that takes hours."""
        chance = random.Random(1)
        path.mkdir(parents=True)
        with closing(opened(path, gateway)) as spool:
            spool._db.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - see above
            series = [
                [spool.series_id(Series(f"dev-{device:05}", f"metric{n}", "")) for n in range(self.metrics)]
                for device in range(self.devices)
            ]
            step_ms = self.every_s * 1000 / self.devices
            at_ms = SystemClock().now_ms() - self.messages * step_ms
            columns = Columns()
            for message in range(1, self.messages + 1):
                at_ms += step_ms
                for id_ in series[message % self.devices]:
                    _add(columns, id_, int(at_ms), round(20 + chance.gauss(0, 2), 2))
                if message % self.commit_messages == 0 or message == self.messages:
                    spool.append(columns, [chance.getrandbits(64) for _ in range(len(columns) // self.metrics)])
                    columns = Columns()


def _add(columns: Columns, series: int, at_ms: int, value: float) -> None:
    columns.series.append(series)
    columns.measured_at.append(at_ms)
    columns.received_at.append(at_ms)
    columns.value.append(value)
    columns.quality.append(0)


def opened(path: Path, gateway: str) -> Spool:
    """A spool without limits."""
    return open_spool(SpoolConfig(path=path, bytes_max=64 * 1024**3, free_bytes_min=0), gateway)


def run(directory: Path) -> list[Figure]:
    return [
        *asyncio.run(catch_up(directory / "outage", Outage())),
        *asyncio.run(fleet(directory / "fleet", gateways=500, outage=Outage(days=2, devices=10, commit_messages=48))),
    ]


async def catch_up(directory: Path, outage: Outage) -> list[Figure]:
    """One gateway, the real agent; probes are published while its backlog drains."""
    pipeline = stack(directory, free_ports())
    await asyncio.to_thread(outage.fill, directory / "spool", GATEWAY)
    filled = read_status(directory / "spool")
    async with pipeline.running([name for name in pipeline.programs if name != "edge"]):
        began_s = time.monotonic()
        await pipeline.start("edge")
        client = await asyncio.to_thread(pipeline.client)
        memory = [0.0]

        def drained() -> bool:
            memory.append(resident_mb(pipeline.programs["edge"].pid))
            status = pipeline.spool_status()
            return status is not None and status.mark >= outage.readings

        probes = Probes(pipeline.ports.mqtt, client)
        async with asyncio.TaskGroup() as tasks:
            probing = tasks.create_task(probes.run())
            await until(drained, "the backlog is drained", 600)
            took_s = time.monotonic() - began_s
            probes.stop()
            await probing
        # A probe is seen when its row is there; the ledger follows.
        await until(lambda: not any(row.uncommitted for row in fetch(client)), "the ledger covers all")
        accounted = await asyncio.to_thread(fetch, client)
        client.close()
    assert all(row.identity_holds for row in accounted)
    assert sum(row.stored for row in accounted) == outage.readings + len(probes.delays)
    what = f"outage of {outage.days:g} days, {outage.devices} devices, {outage.readings:,} readings:"
    return [
        Figure(f"{what} size on disk by the formula of docs/spool.md", outage.bytes_predicted / filled.bytes, "", 0.9),
        Figure(f"{what} size on disk", filled.bytes / 1e6, "MB"),
        Figure("the same: drained, readings a second, from the agent's start", outage.readings / took_s, "/s"),
        Figure("the same: a live reading, published to queryable, p50", probes.quantile(0.5), "s"),
        Figure("the same: a live reading, published to queryable, worst", probes.delays[-1], "s", at_most=DELAY_S_MAX),
        Figure("the same: agent, largest resident memory", max(memory), "MB", at_most=80),
    ]


async def fleet(directory: Path, gateways: int, outage: Outage) -> list[Figure]:
    """Gateways that come back at the same moment, each with a backlog and live readings; their uplinks are in here."""
    pipeline = stack(directory, free_ports())
    first = directory / "spools" / "0"
    await asyncio.to_thread(outage.fill, first, "gateway-0")
    with ExitStack() as spools:
        sources = [spools.enter_context(closing(_copy(first, number))) for number in range(1, gateways + 1)]
        threads = [spools.enter_context(ThreadPoolExecutor(1)) for _ in sources]
        async with pipeline.running(["trunk-broker", "clickhouse", "ingest"]):
            return await _come_back(pipeline, sources, threads, outage)


def _copy(first: Path, number: int) -> Spool:
    """The same spool of another gateway."""
    path = first.parent / str(number)
    shutil.copytree(first, path)
    with closing(sqlite3.connect(path / "spool.db")) as db, db:
        db.execute("UPDATE meta SET gateway = ?", (f"gateway-{number}",))
    spool = opened(path, f"gateway-{number}")
    spool._db.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - hundreds of gateways on one disk are not the question
    return spool


async def _come_back(
    pipeline: Stack, sources: list[Spool], threads: list[ThreadPoolExecutor], outage: Outage
) -> list[Figure]:
    limits = UplinkConfig().limits
    sent: list[int] = []
    live = 0
    uplinks = []
    for source, thread in zip(sources, threads, strict=True):
        source.read = _counting(source.read, sent)  # type: ignore[method-assign]  # it only listens
        uplink = Uplink(
            source=source,
            gateway=source.gateway,
            partitions=16,
            options=Options("127.0.0.1", pipeline.ports.trunk, f"bench-{source.gateway}", keepalive_s=30),
            limits=limits,
            clock=SystemClock(),
            thread=thread,
        )
        uplinks.append(uplink)
    loop = asyncio.get_running_loop()

    async def measure(source: Spool, thread: ThreadPoolExecutor, uplink: Uplink) -> None:
        columns = Columns()
        _add(columns, 0, SystemClock().now_ms(), float(live))
        await loop.run_in_executor(thread, source.append, columns)
        uplink.wake()

    began_s = time.monotonic()
    memory = [0.0]
    running = [asyncio.create_task(uplink.run()) for uplink in uplinks]
    try:
        while any(source.mark < outage.readings for source in sources):
            if time.monotonic() - began_s > 900:
                raise TimeoutError(f"not drained within 900 s:\n{pipeline.programs['ingest'].tail()}")
            live += 1
            await asyncio.gather(*map(measure, sources, threads, uplinks))
            memory.append(resident_mb(pipeline.programs["ingest"].pid))
            await asyncio.sleep(1)
        took_s = time.monotonic() - began_s
        await until(lambda: all(source.mark == source.next_seq - 1 for source in sources), "all is confirmed")
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
    readings = len(sources) * (outage.readings + live)
    with closing(await asyncio.to_thread(pipeline.client)) as client:
        accounted = fetch(client)
        ((p50, p99, worst),) = client.query(
            "SELECT quantileExact(0.5)(delay), quantileExact(0.99)(delay), max(delay) FROM (SELECT "
            "date_diff('ms', received_at, ingested_at) / 1000 AS delay FROM fieldline.readings "
            f"WHERE seq > {outage.readings})"
        ).result_rows
    assert all(row.identity_holds for row in accounted)
    assert sum(row.stored for row in accounted) == readings
    what = f"{len(sources)} gateways come back with {outage.readings:,} readings each:"
    return [
        Figure(f"{what} drained, readings a second", readings / took_s, "/s"),
        Figure("the same: readings sent for each one stored", sum(sent) / readings, "", at_most=1.5),
        Figure("the same: a live reading, gateway to insert, p50", p50, "s"),
        Figure("the same: a live reading, gateway to insert, p99", p99, "s"),
        Figure("the same: a live reading, gateway to insert, worst", worst, "s", at_most=DELAY_S_MAX),
        Figure("the same: ingest, largest resident memory", max(memory), "MB"),
    ]


def _counting(read: Callable[..., object], sent: list[int]) -> Callable[..., object]:
    def counted(*args: int) -> object:
        found = read(*args)
        if found is not None:
            sent.append(found.last_seq - found.first_seq + 1)  # type: ignore[attr-defined]
        return found

    return counted

"""Series (device, metric, unit), 1,000 to 1,000,000, through the whole pipeline: what each part keeps for them.

Devices with METRICS metrics each send in turn, at least two messages each. When all is confirmed the sizes are read,
the agent starts anew on its spool, which still has the names of all series, and ClickHouse is asked for one series.
"""

import asyncio
import statistics
import time
from contextlib import closing
from pathlib import Path

from bench.figure import Figure, Table
from bench.parts import cpu_s, mark, resident_mb, stack, until, warm
from bench.picture import curves, label, panels, save
from bench.publisher import command
from ingest.clickhouse.client import Client
from proof.ports import free_ports

SERIES = (1_000, 10_000, 100_000, 1_000_000)
METRICS, MESSAGES_MIN = 10, 20_000
HEADINGS = (
    "series",
    "readings/s",
    "agent MB",
    "ingest MB",
    "ClickHouse MB",
    "agent µs/reading",
    "ingest µs/reading",
    "spool MB",
    "agent starts s",
    "table B/reading",
    "one series ms",
)


def run(directory: Path) -> list[Figure | Table]:
    rows = [asyncio.run(_row(directory / f"{series}", series)) for series in SERIES]
    _draw(rows, directory / "growth-series.png")
    return [
        Figure(f"growth: agent, resident memory with {SERIES[-1]:,} series", rows[-1][2], "MB"),
        Table("growth-series", f"Series through the whole pipeline, {METRICS} per device", HEADINGS, rows),
    ]


async def _row(directory: Path, series: int) -> list[float]:
    devices = series // METRICS
    messages = max(2 * devices, MESSAGES_MIN)
    pipeline = stack(directory, free_ports(), gateway_toml=f"collect.series_max = {series + 1}")
    async with pipeline.running():
        await warm(pipeline)
        agent, ingest, engine = (pipeline.programs[name].pid for name in ("edge", "ingest", "clickhouse"))
        began_s, agent_s, ingest_s = time.perf_counter(), cpu_s(agent), cpu_s(ingest)
        options = {"devices": devices, "metrics": METRICS, "messages": messages}
        pipeline.add("publisher", command(pipeline.ports.mqtt, **options), restart=False).start()
        readings = messages * METRICS
        await until(lambda: mark(pipeline) == readings + 1, "all is confirmed", 300)
        took_s = time.perf_counter() - began_s
        agent_us, ingest_us = (1e6 * s / readings for s in (cpu_s(agent) - agent_s, cpu_s(ingest) - ingest_s))
        memory_mb = list(map(resident_mb, (agent, ingest, engine)))
        with closing(await asyncio.to_thread(pipeline.client)) as client:
            bytes_, query_ms = await asyncio.to_thread(_table, client, readings)
        spool = pipeline.spool_status()
        assert spool is not None
        await pipeline.programs["edge"].stop()
        began_s = time.perf_counter()
        await pipeline.start("edge")
        start_s = time.perf_counter() - began_s
    sizes = (*memory_mb, agent_us, ingest_us, spool.bytes / 1e6, start_s, bytes_, query_ms)
    return [series, round(readings / took_s), *(round(number, 2) for number in sizes)]


def _table(client: Client, readings: int) -> tuple[float, float]:
    """Bytes of a reading on disk, and milliseconds to read one series."""
    ((rows, size),) = client.query(
        "SELECT sum(rows), sum(bytes_on_disk) FROM system.parts "
        "WHERE active AND database = 'fieldline' AND table = 'readings'"
    ).result_rows
    assert rows == readings + 1, f"{rows} rows are stored"
    took_ms = []
    for _ in range(21):
        began_s = time.perf_counter()
        found = client.query(
            "SELECT measured_at, value FROM fieldline.readings WHERE device = 'dev-000005' AND metric = 'metric05'"
        ).result_rows
        assert len(found) >= 2, "each device has sent twice"
        took_ms.append(1000 * (time.perf_counter() - began_s))
    return size / rows, statistics.median(took_ms)


def _draw(rows: list[list[float]], path: Path) -> None:
    canvas, found = panels("Series through the whole pipeline", 2, 3, (13, 7.5))
    each = (
        ("Resident memory", {"agent": 2, "ingest": 3, "ClickHouse": 4}, "MB"),
        ("Processor time of a reading", {"agent": 5, "ingest": 6}, "µs"),
        ("Stored", {"": 1}, "readings/s"),
        ("Spool, empty but for the names", {"": 7}, "MB"),
        ("The agent starts", {"": 8}, "s"),
        ("One series is read", {"": 10}, "ms"),
    )
    for panel, (title, named, unit) in zip(found, each, strict=True):
        curves(panel, rows, named)
        label(panel, title, "series", unit)
    save(canvas, path)

"""A backlog in the spool, 1 to 100 million readings: opening it, asking for its status, and draining it.

It is filled through the spool's own interface, without syncing each commit, in two shapes: commits of LARGE_COMMIT
readings (many devices, or few commits a second), and commits of one message of four readings (few devices), the costly
ones. The agent then drains it into a stand-in for the cloud, for DRAIN_S at most; `drained` is what receipts covered by
then; the rate counts from the first receipt on. 100 million take FULL=1, some minutes and 1.5 GB.
"""

import asyncio
import random
import shutil
import statistics
import time
from contextlib import closing
from pathlib import Path

from bench.figure import Figure, Table
from bench.growth import FULL
from bench.outage import opened
from bench.parts import StandInCloud, cpu_s, mark, resident_mb, stack
from bench.picture import curves, label, panels, save
from bench.spool import opening
from edge_agent.spool_file import read_status
from proof.ports import free_ports
from proof.stack import GATEWAY, Stack
from telemetry.columns import Columns, Series

LARGE_COMMIT, SMALL_COMMIT = 10_000, 4
LARGE, LARGE_FULL = (1, 10_000, 100_000, 1_000_000, 10_000_000), (100_000_000,)
SMALL, SMALL_FULL = (4, 10_000, 100_000, 1_000_000), (10_000_000,)
SERIES = 1_000
DRAIN_S, DRAIN_FULL_S = 15, 60
DRAIN_MIN = 50_000
"""Fewer are sent in so few batches that there is no rate."""
HEADINGS = (
    "readings",
    "in a commit",
    "spool MB",
    "opened s",
    "memory MB, open",
    "status ms",
    "drained readings/s",
    "agent µs/reading",
    "memory MB, draining",
    "drained",
)


def run(directory: Path) -> list[Figure | Table]:
    shapes = {
        LARGE_COMMIT: (*LARGE, *(LARGE_FULL if FULL else ())),
        SMALL_COMMIT: (*SMALL, *(SMALL_FULL if FULL else ())),
    }
    rows = [
        asyncio.run(_row(directory / f"{commit}-{readings}", readings, commit))
        for commit, sizes in shapes.items()
        for readings in sizes
    ]
    _draw(rows, directory / "growth-backlog.png")
    return [Table("growth-backlog", "A backlog in the spool", HEADINGS, rows)]


async def _row(directory: Path, readings: int, commit: int) -> list[float | str]:
    pipeline = stack(directory, free_ports())
    spool = directory / "spool"
    await asyncio.to_thread(_fill, spool, readings, commit)
    open_s, open_bytes = await asyncio.to_thread(opening, spool, GATEWAY)
    status = read_status(spool)
    assert status.records == readings
    status_ms = statistics.median(_timed_ms(spool) for _ in range(21))
    drained, *drain = await _drain(pipeline, readings)
    shutil.rmtree(spool)
    costs = (
        [open_s, open_bytes / 1e6, status_ms, *drain] if drained > DRAIN_MIN else [open_s, open_bytes / 1e6, status_ms]
    )
    row = [readings, commit, round(status.bytes / 1e6, 2), *(float(f"{cost:.3g}") for cost in costs)]
    return [*row, *[""] * (len(HEADINGS) - 1 - len(row)), drained]


def _timed_ms(spool: Path) -> float:
    began_s = time.perf_counter()
    read_status(spool)
    return 1000 * (time.perf_counter() - began_s)


def _fill(path: Path, readings: int, commit: int) -> None:
    """Every commit has the same content: making it is not what is measured."""
    chance = random.Random(1)
    path.mkdir(parents=True)
    with closing(opened(path, GATEWAY)) as spool:
        spool._db.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - filling it is not what is measured
        for number in range(SERIES):
            spool.series_id(Series(f"dev-{number // 4:05}", f"metric{number % 4}", ""))
        columns = Columns()
        for number in range(min(commit, readings)):
            columns.series.append(number % SERIES)
            columns.measured_at.append(1_750_000_000_000 + number * 5)
            columns.received_at.append(1_750_000_000_000 + number * 5 + 2)
            columns.value.append(round(chance.gauss(20, 2), 2))
            columns.quality.append(0)
        for _ in range(readings // len(columns)):
            spool.append(columns)


async def _drain(pipeline: Stack, readings: int) -> tuple[int, float, float, float]:
    """Until the spool is empty or the time is over: how many readings, and from the first receipt on how many a second,
    µs of the agent for each, and its largest memory in MB.
    """
    cloud = StandInCloud()
    async with pipeline.running(["device-broker", "edge"]):
        pid = pipeline.programs["edge"].pid
        await pipeline.start("trunk-broker")
        async with cloud.running(pipeline.ports.trunk):
            while not (first := mark(pipeline)):
                await asyncio.sleep(0.005)
            began_s, cpu_before_s = time.perf_counter(), cpu_s(pid)
            last, memory_mb = first, resident_mb(pid)
            while last < readings and time.perf_counter() - began_s < (DRAIN_FULL_S if FULL else DRAIN_S):
                await asyncio.sleep(0.02)
                last, memory_mb = mark(pipeline), max(memory_mb, resident_mb(pid))
            drained, took_s = max(last - first, 1), time.perf_counter() - began_s
            return last, drained / took_s, 1e6 * (cpu_s(pid) - cpu_before_s) / drained, memory_mb


def _draw(rows: list[list[float | str]], path: Path) -> None:
    canvas, found = panels("A backlog in the spool, by the readings in it", 2, 3, (13, 7.5))
    each = (
        ("On disk", 2, "MB", "xy"),
        ("Opened", 3, "s", "x"),
        ("Resident memory when open", 4, "MB", "x"),
        ("Status", 5, "ms", "x"),
        ("Drained", 6, "readings/s", "x"),
        ("Agent, processor time of a reading", 7, "µs", "x"),
    )
    for panel, (title, at, unit, log) in zip(found, each, strict=True):
        shapes = {f"commits of {LARGE_COMMIT:,}": LARGE_COMMIT, "commits of one message": SMALL_COMMIT}
        for colour, (name, commit) in enumerate(shapes.items()):
            curves(panel, [row for row in rows if row[1] == commit], {name: at}, log=log, colour=colour)
        label(panel, title, "readings", unit)
    save(canvas, path)

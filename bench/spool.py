"""The spool's cost: bytes written to disk per reading, by the kernel's count, and opening one of 2 GB.

Bytes written are `write_bytes` of /proc/PID/io (proc(5)): what went to the block device, log and checkpoints included,
and what a trim writes. It depends on how many messages a commit holds: each commit is synced, and SQLite writes
whole pages.
"""

import random
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from bench.figure import Figure
from bench.outage import opened
from edge_agent.spool import Spool
from telemetry.columns import Columns, Series

METRICS = 4
GROUPS = {1: 2_000, 20: 40_000, 1_000: 200_000}
"""Messages per commit -> messages in all."""
LARGE_BYTES = 2 * 1024**3
LARGE_COMMIT = 50_000
OPEN = r"""
import re, sys, time
from edge_agent.config import Spool
from edge_agent.spool import open_spool
at_s = time.perf_counter()
spool = open_spool(Spool(path=sys.argv[1], bytes_max=1 << 40, free_bytes_min=0), sys.argv[2])
first = spool.read(spool.mark, 10_000, 1 << 20)
took_s = time.perf_counter() - at_s
assert first is not None
print(took_s, int(re.search(r"VmHWM:\s+(\d+)", open("/proc/self/status").read())[1]) * 1024)
"""


def run(directory: Path) -> list[Figure]:
    return [*_written(directory), *_large(directory / "large")]


def _written(directory: Path) -> Iterator[Figure]:
    for group, messages in GROUPS.items():
        path = directory / str(group)
        path.mkdir()
        with closing(opened(path, "g")) as spool:
            ids = _series(spool)
            chance = random.Random(1)
            before = _write_bytes()
            for number in range(messages // group):
                columns = Columns()
                _add(columns, ids, group, number, chance)
                spool.append(columns, [chance.getrandbits(64) for _ in range(group)])
                if number % 100 == 99:
                    spool.trim(spool.next_seq - 1 - len(columns))
        readings = messages * METRICS
        what = f"spool, written to disk per reading ({group:,} messages of {METRICS} readings a commit, trimmed)"
        yield Figure(what, (_write_bytes() - before) / readings, "B")


def _large(path: Path) -> list[Figure]:
    path.mkdir()
    with closing(opened(path, "g")) as spool:
        spool._db.execute("PRAGMA synchronous = OFF")  # noqa: SLF001 - filling it is not what is measured
        ids = _series(spool)
        chance = random.Random(1)
        columns = Columns()
        _add(columns, ids, LARGE_COMMIT // METRICS, 0, chance)
        while spool.status().bytes < LARGE_BYTES:
            for _ in range(50):
                spool.append(columns, [])
        readings = spool.next_seq - 1
    took_s, memory_bytes = opening(path, "g")
    return [
        Figure(f"spool of 2 GB ({readings:,} readings), opened and the first batch read", took_s, "s"),
        Figure("the same, resident memory of the process", memory_bytes / 1e6, "MB", at_most=80),
    ]


def opening(path: Path, gateway: str) -> tuple[float, float]:
    """(seconds, bytes resident at most) of a process that opens a spool and reads its first batch."""
    command = [sys.executable, "-c", OPEN, str(path), gateway]
    took_s, memory_bytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(took_s), float(memory_bytes)


def _series(spool: Spool) -> list[int]:
    return [spool.series_id(Series("device", f"metric{number}", "")) for number in range(METRICS)]


def _add(columns: Columns, ids: list[int], messages: int, number: int, chance: random.Random) -> None:
    at_ms = 1_750_000_000_000 + number * 5
    for _ in range(messages):
        for id_ in ids:
            columns.series.append(id_)
            columns.measured_at.append(at_ms)
            columns.received_at.append(at_ms)
            columns.value.append(chance.gauss(0, 1))
            columns.quality.append(0)


def _write_bytes() -> int:
    for line in Path("/proc/self/io").read_text().splitlines():
        if line.startswith("write_bytes:"):
            return int(line.split()[1])
    raise RuntimeError("/proc/self/io has no write_bytes")

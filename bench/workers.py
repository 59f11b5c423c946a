"""How ingest scales: rows per second from the trunk broker to committed, with one worker and with two.

Each worker owns its half of the partitions; all of them insert into the same ClickHouse. On a machine of two cores the
broker, ClickHouse and the workers share them, so this shows what a second worker costs there rather than what it gives
on a machine of its own.
"""

import asyncio
import statistics
from pathlib import Path

from bench.figure import Figure
from bench.ingest import PARTITIONS, ROWS, batches, through_the_trunk
from bench.parts import stack
from proof.ports import free_ports
from proof.stack import FIELDLINE

ROUNDS = 2


def run(directory: Path) -> list[Figure]:
    one, two = (asyncio.run(_rate(directory / str(workers), workers)) for workers in (1, 2))
    return [
        Figure("ingest with two workers against one", two / one, ""),
        Figure("ingest with one worker, rows per second", one, "rows/s"),
        Figure("ingest with two workers, rows per second", two, "rows/s"),
    ]


async def _rate(directory: Path, workers: int) -> float:
    pipeline = stack(directory, free_ports())
    config = pipeline.ingest_config.read_text()
    names = []
    for worker in range(workers):
        path = directory / f"worker-{worker}.toml"
        path.write_text(f"own = {list(range(worker, PARTITIONS, workers))}\n{config}")
        names.append(f"worker-{worker}")
        pipeline.add(names[-1], (*FIELDLINE, "ingest", "run", "--config", str(path)))
    took_s = []
    async with pipeline.running(["trunk-broker", "clickhouse", *names]):
        for round_ in range(ROUNDS + 1):  # the first one warms up
            messages = await asyncio.to_thread(batches, f"e{round_}")
            took_s.append(await through_the_trunk(pipeline.ports.trunk, messages, f"e{round_}"))
        client = pipeline.client()
        stored = client.query("SELECT count() FROM fieldline.readings").result_rows[0][0]
        client.close()
    assert stored == ROWS * (ROUNDS + 1), f"{stored} rows are stored"
    return ROWS / statistics.median(took_s[1:])

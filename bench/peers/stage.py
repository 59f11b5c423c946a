"""Where a peer works: a device broker and a ClickHouse of its own, empty, and the peer's programs, seen from outside.

The peers' table is what ClickHouse gives by default: the columns it needs, and no fsync of inserts. (Fieldline writes
its own, which has ten columns more, two indexes, and fsync.) `arrivals` is for programs that write a row per message:
it keeps nothing, and a view makes readings of what is inserted into it.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from bench.parts import connected, stack, until
from bench.peers.peer import Peer, Place
from ingest.clickhouse.client import Client
from proof.ports import free_ports
from proof.stack import Stack

SCHEMA = """
CREATE DATABASE peers;
CREATE TABLE peers.readings
(
    device LowCardinality(String),
    metric LowCardinality(String),
    measured_at DateTime64(3, 'UTC'),
    value Float64
)
ENGINE = MergeTree PARTITION BY toYYYYMM(measured_at) ORDER BY (device, metric, measured_at);
CREATE TABLE peers.arrivals
(
    topic String, ts Int64, temperature Nullable(Float64), humidity Nullable(Float64), pressure Nullable(Float64)
)
ENGINE = Null;
CREATE MATERIALIZED VIEW peers.arrived TO peers.readings AS
SELECT
    splitByChar('/', topic)[2] AS device,
    reading.1 AS metric,
    fromUnixTimestamp64Milli(ts, 'UTC') AS measured_at,
    reading.2 AS value
FROM peers.arrivals
ARRAY JOIN [('temperature', temperature), ('humidity', humidity), ('pressure', pressure)] AS reading
WHERE isNotNull(reading.2)
"""
START_S_MAX = 60.0
CANARY = "canary"
INFRASTRUCTURE = ("device-broker", "clickhouse")


@dataclass(slots=True)
class Stage:
    """A peer that runs."""

    peer: Peer
    stack: Stack
    client: Client

    def rows(self) -> int:
        """In the peer's table; the canary's are not counted."""
        return self._count(f"device != '{CANARY}'")

    def has_heard_the_canary(self) -> bool:
        """Whether something that was published before the measuring has come through."""
        return self._count(f"device = '{CANARY}'") > 0

    def _count(self, condition: str) -> int:
        ((count,),) = self.client.query(f"SELECT count() FROM {self.peer.table} WHERE {condition}").result_rows
        return int(count)

    def kill(self) -> None:
        """SIGKILL to all of the peer's programs at once; the supervisor starts them again."""
        for name in self.peer.own:
            process = self.stack.programs[name].process
            if process is not None:
                process.kill()

    def restarts(self) -> int:
        """How often one of its programs was started again."""
        return sum(self.stack.programs[name].restarts for name in self.peer.own)

    def cpu_s(self) -> dict[str, float]:
        """User and system seconds of each program, its child processes included."""
        names = (*INFRASTRUCTURE, *self.peer.stand_ins, *self.peer.own)
        return {name: sum(map(_cpu_s, _family(self.stack.programs[name].pid))) for name in names}

    def memory_peak_mb(self) -> dict[str, float]:
        """The largest resident size of each program since its start, in MB (10^6 bytes)."""
        names = (*INFRASTRUCTURE, *self.peer.stand_ins, *self.peer.own)
        return {name: sum(map(_peak_mb, _family(self.stack.programs[name].pid))) for name in names}

    def written_bytes(self) -> dict[str, int]:
        """What the peer's programs have written to disk since they started, by the kernel's count."""
        families = {name: _family(self.stack.programs[name].pid) for name in self.peer.own}
        return {name: sum(each.io_counters().write_bytes for each in family) for name, family in families.items()}


@contextlib.asynccontextmanager
async def on_stage(peer: Peer, installed: Path, directory: Path) -> AsyncIterator[Stage]:
    """Start everything; the block begins when a message that was published has been found in the table."""
    pipeline = stack(directory, free_ports())
    for process in peer.processes(Place(installed, directory, pipeline.ports)):
        pipeline.add(process.name, process.command).environment = dict(process.environment)
    async with pipeline.running(INFRASTRUCTURE):
        client = await asyncio.to_thread(pipeline.client)
        with contextlib.closing(client):
            for statement in SCHEMA.split(";"):
                client.command(statement)
            async with pipeline.running((*peer.stand_ins, *peer.own)):
                stage = Stage(peer, pipeline, client)
                await _until_it_works(stage)
                yield stage


async def _until_it_works(stage: Stage) -> None:
    async with connected(stage.stack.ports.mqtt, "bench-canary") as canary:

        async def call() -> None:
            while True:
                await canary.publish(f"devices/{CANARY}/telemetry", b'{"ts": 1750000000000, "temperature": 1}')
                await asyncio.sleep(0.5)

        calling = asyncio.create_task(call())
        try:
            await until(stage.has_heard_the_canary, f"{stage.peer.title} stores a message", START_S_MAX)
        finally:
            calling.cancel()


def _family(pid: int) -> list[psutil.Process]:
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def _cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return times.user + times.system + times.children_user + times.children_system


def _peak_mb(process: psutil.Process) -> float:
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0

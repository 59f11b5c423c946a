"""Latency with default settings: from a device's publish to visible in a SELECT, p50 and p99."""

import asyncio
import time
from pathlib import Path

from bench.figure import Figure
from bench.parts import connected, stack, until
from ingest.clickhouse.client import Client
from proof.ports import free_ports

PROBES, EVERY_S, LOOK_EVERY_S = 120, 0.11, 0.02


class Probes:
    """Publishes a numbered reading every EVERY_S, and notes when each can be queried first."""

    def __init__(self, port: int, client: Client) -> None:
        self._port = port
        self._client = client
        self._sent: dict[int, float] = {}
        self._seen: dict[int, float] = {}
        self._is_stopping = False

    async def run(self, probes_max: int = 1_000_000) -> None:
        """Until so many are sent, or `stop` was called, and all are seen."""
        async with asyncio.TaskGroup() as tasks:
            publishing = tasks.create_task(self._publish(probes_max))
            tasks.create_task(self._look(publishing))

    def stop(self) -> None:
        """Publish no more."""
        self._is_stopping = True

    @property
    def delays(self) -> list[float]:
        """Seconds from publish to visible, ascending."""
        return sorted(self._seen[number] - at_s for number, at_s in self._sent.items())

    def quantile(self, share: float) -> float:
        """Of the delays."""
        return self.delays[int(len(self.delays) * share)]

    async def _publish(self, probes_max: int) -> None:
        async with connected(self._port, "bench-probe") as device:
            while len(self._sent) < probes_max and not self._is_stopping:
                number = len(self._sent) + 1
                self._sent[number] = time.perf_counter()
                await device.publish("devices/probe/telemetry", b'{"n": %d}' % number)
                await asyncio.sleep(EVERY_S)

    async def _look(self, publishing: "asyncio.Task[None]") -> None:
        query = "SELECT toUInt32(value) FROM fieldline.readings WHERE device = 'probe' AND metric = 'n'"
        while not (publishing.done() and len(self._seen) == len(self._sent)):
            asked_s = time.perf_counter()
            rows = (await asyncio.to_thread(self._client.query, query)).result_rows
            for (number,) in rows:
                self._seen.setdefault(number, time.perf_counter())
            await asyncio.sleep(max(0, LOOK_EVERY_S - (time.perf_counter() - asked_s)))


def run(directory: Path) -> list[Figure]:
    return asyncio.run(_run(directory))


async def _run(directory: Path) -> list[Figure]:
    pipeline = stack(directory, free_ports())
    async with pipeline.running():
        client = pipeline.client()
        await until(lambda: pipeline.spool_status() is not None, "the agent runs")
        probes = Probes(pipeline.ports.mqtt, client)
        await probes.run(PROBES)
        client.close()
    return [
        Figure("published to queryable, p50", probes.quantile(0.5), "s", at_most=1.5),
        Figure("published to queryable, p99", probes.quantile(0.99), "s", at_most=3),
    ]

"""An uplink for tests: a real spool, its thread, and a cloud that says what the test wants, over a real broker.

    async with trunk(tmp_path, broker.port, records=75) as (it, cloud):
        await cloud.greeted(40)
        await cloud.until_spans((41, 50), ...)

Invariant 3 is asserted at the end of every block: the spool was trimmed only as far as receipts of its epoch
went, whatever the broker acknowledged.
"""

import asyncio
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from broker_bridge.contract import Status
from broker_bridge.mqtt.client import Options
from broker_bridge.uplink import Limits, Uplink
from edge_agent.spool import Spool, open_spool
from telemetry.clock import SystemClock
from telemetry.columns import Columns
from tests.brokers import HOST
from tests.cloud import PARTITIONS, Cloud
from tests.records import numbered, series_of
from tests.spool import MIB, config

NEVER_S = 1000.0
gateways = (f"g{number}" for number in count())


@dataclass
class Edge:
    """A gateway's spool with its uplink; `trims` is what it freed, as (epoch, mark)."""

    spool: Spool
    thread: ThreadPoolExecutor
    uplink: Uplink
    cloud: Cloud
    trims: list[tuple[str, int]] = field(default_factory=list)

    @property
    def gateway(self) -> str:
        return self.spool.gateway

    async def append(self, columns: Columns) -> None:
        await asyncio.get_running_loop().run_in_executor(self.thread, self.spool.append, columns)
        self.uplink.wake()

    async def until_trimmed(self, mark: int) -> None:
        await self.cloud.until(lambda: self.spool.mark >= mark, f"the spool is trimmed to {mark}")
        assert self.spool.mark == mark


@asynccontextmanager
async def edge(path: Path, port: int, cloud: Cloud, **limits: float) -> AsyncIterator[Edge]:
    given = {"batch_rows_max": 10, "batch_bytes_max": MIB, "batch_age_s_max": 0.0, "window_batches_max": 4}
    given |= {"resend_s": NEVER_S, "reconnect_s_max": 0.2} | limits
    with closing(open_spool(config(path), cloud.gateway)) as source, ThreadPoolExecutor(1) as thread:
        for id_ in range(4):
            source.series_id(series_of(id_))
        uplink = Uplink(
            source=source,
            gateway=cloud.gateway,
            partitions=PARTITIONS,
            options=Options(HOST, port, f"uplink-{cloud.gateway}", keepalive_s=5),
            limits=Limits(**given),  # type: ignore[arg-type]  # of the right types by name
            clock=SystemClock(),
            thread=thread,
            status=lambda: Status(source.epoch, "0", 1, source.mark, source.next_seq - 1, 0, 0, 0),
        )
        it = Edge(source, thread, uplink, cloud)
        trim = source.trim

        def spy(mark: int) -> None:
            it.trims.append((source.epoch, mark))
            trim(mark)

        source.trim = spy  # type: ignore[method-assign]  # it only listens
        task = asyncio.create_task(uplink.run())
        try:
            yield it
            assert not task.done(), "the uplink never ends by itself"
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        for epoch, mark in it.trims:
            assert cloud.promised[epoch].covers(1, mark), f"trimmed to {mark}, which no receipt of {epoch} said"


@asynccontextmanager
async def trunk(path: Path, port: int, records: int, **limits: float) -> AsyncIterator[tuple[Edge, Cloud]]:
    """An uplink with records 1..records in one chunk, and a cloud, both connected."""
    async with Cloud.connected(port, next(gateways)) as cloud:
        with closing(open_spool(config(path), cloud.gateway)) as spool:
            spool.append(numbered(1, records))
        async with edge(path, port, cloud, **limits) as it:
            yield it, cloud

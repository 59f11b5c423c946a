"""A group commit for tests: real spool, thread and decoder, and faults in front of `Spool.append`.

    async with rig(tmp_path) as it:
        it.failures = [OSError("no")]      # what the next appends raise; it.gate.clear() holds them up
        await it.deliver("a", 1, 2)        # a delivery named "a" of two messages
        await it.until_settled(1)

What is durable is asked of the database over a connection of its own, at the moment of each settle.
"""

import asyncio
import threading
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.commit import GroupCommit
from edge_agent.config import Coap, Collect, GatewayConfig, Process
from edge_agent.decode import Decoder
from edge_agent.spool import Spool
from edge_agent.spool_file import read_status
from telemetry.clock import Clock, SystemClock
from telemetry.delivery import Chunk, Delivery, Outcome
from telemetry.records import Records
from tests.brokers import eventually
from tests.records import NEW_YEAR_MS
from tests.spool import ALL, MIB, opened

TOPIC = "devices/d/telemetry"


@dataclass
class Rig:
    """A group commit on a spool. `settled` has (name, outcome, last seq in the database at that moment)."""

    path: Path
    spool: Spool
    commit: GroupCommit
    decoder: Decoder
    settled: list[tuple[str, Outcome, int]] = field(default_factory=list)
    failures: list[Exception] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    appends: int = 0

    def delivery(self, name: str, chunk: Chunk) -> Delivery[Chunk]:
        def settle(outcome: Outcome) -> None:
            self.settled.append((name, outcome, read_status(self.path).last_seq))

        return Delivery(chunk, settle)

    async def deliver(self, name: str, *numbers: int, repeated: bool = False, qos: int = 1) -> None:
        """Messages of one reading each, value and key being the number."""
        count = len(numbers)
        chunk = Chunk(
            NEW_YEAR_MS,
            [TOPIC] * count,
            [b'{"n": %d}' % number for number in numbers],
            [number if qos else 0 for number in numbers],
            set(range(count)) if repeated else set(),
        )
        await self.commit.deliver(self.delivery(name, chunk))

    @property
    def names(self) -> list[str]:
        return [name for name, *_ in self.settled]

    def values(self) -> list[float]:
        """Everything in the spool."""
        run = self.spool.read(0, ALL, ALL)
        assert run is None or isinstance(run, Records)
        return list(run.columns.value) if run else []

    async def until_settled(self, count: int) -> None:
        await eventually(lambda: len(self.settled) >= count, f"{count} are settled")


@asynccontextmanager
async def rig(
    path: Path,
    *,
    run: bool = True,
    records_max: int = 50_000,
    bytes_max: int = 1024 * MIB,
    process: tuple[Process, ...] = (),
    clock: Clock | None = None,
) -> AsyncIterator[Rig]:
    collect = Collect(commit_delay_ms=1, commit_records_max=records_max)
    with opened(path, bytes_max=bytes_max) as opened_spool, ThreadPoolExecutor(1) as thread:
        config = GatewayConfig(gateway="g", coap=Coap(), collect=collect, process=process)
        decoder = Decoder(config, opened_spool.series_id, windows=opened_spool.windows())
        commit = GroupCommit(opened_spool, decoder, collect, clock or SystemClock(), thread)
        made = Rig(path, opened_spool, commit, decoder)
        made.gate.set()
        append = opened_spool.append

        def faulty(*arguments: object) -> object:
            made.appends += 1
            assert made.gate.wait(20)
            if made.failures:
                raise made.failures.pop(0)
            return append(*arguments)  # type: ignore[arg-type]  # as they came

        opened_spool.append = faulty  # type: ignore[method-assign, assignment]  # a fault in front of it
        task = asyncio.create_task(commit.run()) if run else None
        try:
            yield made
        finally:
            made.gate.set()
            if task is not None:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

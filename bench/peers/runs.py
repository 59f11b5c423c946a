"""The three runs of every peer: as fast as it goes, killed in the middle, and with a ClickHouse that is away.

**Throughput.** Rounds of so many messages as the peer takes some seconds for, published as fast as the broker takes
them; the first round is not counted. A round lasts from the first publish until the last row can be queried; its CPU is
counted until the peer has nothing to do any more, because acknowledging and tidying up may come later.

**Kills.** A steady rate, the same for all, and SIGKILL to all of the peer's processes at KILLS_S.

**Outage.** The same rate, and no ClickHouse for OUTAGE_S.

What the broker acknowledged to the devices is compared with the table value by value, when nothing changes any more.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

import psutil

from bench.peers import load
from bench.peers.stage import Stage
from proof.checker import judge

ROUNDS, ROUND_S_MAX, STALLED_S = 3, 45.0, 12.0
IDLE_SHARE_MAX, IDLE_WINDOW_S, IDLE_S_MAX = 0.1, 1.0, 20.0
RATE_HZ, STEADY_S = 50, 30
KILLS_S = (7.0, 14.0, 21.0)
OUTAGE_AT_S, OUTAGE_S = 5.0, 20.0
QUIET_S, WAITING_S, DRAIN_S_MAX = 3.0, 15.0, 60.0
LOOK_S = 0.05


@dataclass(frozen=True, slots=True)
class Round:
    """seconds: until the last row; None if it did not come. cpu_s: by program. others_share: of the machine's time."""

    rows: int
    seconds: float | None
    cpu_s: Mapping[str, float]
    others_share: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """The counted rounds; each program's largest memory over all; what the table lacks, or has too often."""

    offered_messages: int
    rounds: list[Round]
    memory_mb: Mapping[str, float]
    missing: int
    double: int


@dataclass(frozen=True, slots=True)
class Custody:
    """Readings: acknowledged to the devices, missing in the table, and in it too often.

    restarts: of the peer's programs. drained_s: from the last publish until the table changed for the last time.
    """

    acknowledged: int
    missing: int
    double: int
    restarts: int
    drained_s: float


async def throughput(stage: Stage) -> Throughput:
    """ROUNDS rounds after one that warms up."""
    offered = stage.peer.offered
    rounds = [await _round(stage, range(n * offered, (n + 1) * offered)) for n in range(ROUNDS + 1)]
    memory = stage.memory_peak_mb()
    missing, double = await asyncio.to_thread(_compare, stage, range((ROUNDS + 1) * offered))
    return Throughput(offered, rounds[1:], memory, missing, double)


async def _round(stage: Stage, numbers: range) -> Round:
    rows = len(numbers) * len(load.METRICS)
    wanted = await asyncio.to_thread(stage.rows) + rows
    usage, machine_s, own_s = stage.cpu_s(), _machine_s(), _own_s()
    began_s = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.publish(stage.stack.ports.mqtt, numbers))
        arriving = tasks.create_task(_arrived(stage, wanted, began_s))
    await _idle(stage)
    used = {name: after - usage[name] for name, after in stage.cpu_s().items()}
    busy_s, total_s = (after - before for after, before in zip(_machine_s(), machine_s, strict=True))
    others_s = busy_s - sum(used.values()) - (_own_s() - own_s)
    return Round(rows, arriving.result(), used, max(0.0, others_s / total_s))


async def _arrived(stage: Stage, wanted: int, began_s: float) -> float | None:
    """Seconds until the table has so many rows; None if they stop coming or take too long."""
    seen, seen_s = 0, time.perf_counter()
    while (now_s := time.perf_counter()) - began_s < ROUND_S_MAX:
        rows = await asyncio.to_thread(stage.rows)
        if rows >= wanted:
            return time.perf_counter() - began_s
        if rows != seen:
            seen, seen_s = rows, now_s
        elif now_s - seen_s > STALLED_S:
            break
        await asyncio.sleep(LOOK_S)
    return None


async def _idle(stage: Stage) -> None:
    """Until the peer uses less than IDLE_SHARE_MAX of a core for IDLE_WINDOW_S, or IDLE_S_MAX are over."""
    names = (*stage.peer.own, *stage.peer.stand_ins)
    deadline_s = time.perf_counter() + IDLE_S_MAX
    used_s = sum(stage.cpu_s()[name] for name in names)
    while time.perf_counter() < deadline_s:
        await asyncio.sleep(IDLE_WINDOW_S)
        before_s, used_s = used_s, sum(stage.cpu_s()[name] for name in names)
        if used_s - before_s < IDLE_SHARE_MAX * IDLE_WINDOW_S:
            break


async def kills(stage: Stage) -> Custody:
    """SIGKILL at KILLS_S of a steady stream."""

    async def meddle() -> None:
        for at_s, before_s in zip(KILLS_S, (0.0, *KILLS_S), strict=False):
            await asyncio.sleep(at_s - before_s)
            stage.kill()

    return await _steady(stage, meddle)


async def outage(stage: Stage) -> Custody:
    """ClickHouse is stopped properly, and started again after OUTAGE_S."""
    clickhouse = stage.stack.programs["clickhouse"]

    async def meddle() -> None:
        await asyncio.sleep(OUTAGE_AT_S)
        await clickhouse.stop()
        await asyncio.sleep(OUTAGE_S)
        clickhouse.start()
        await clickhouse.until_ready()

    return await _steady(stage, meddle)


async def _steady(stage: Stage, meddle: Callable[[], Awaitable[None]]) -> Custody:
    """STEADY_S of a steady stream while somebody meddles; then until nothing changes any more."""
    numbers = range(RATE_HZ * STEADY_S)
    wanted = await asyncio.to_thread(stage.rows) + len(numbers) * len(load.METRICS)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(load.publish_paced(stage.stack.ports.mqtt, numbers, RATE_HZ))
        tasks.create_task(meddle())
    drained_s = await _quiet(stage, wanted)
    missing, double = await asyncio.to_thread(_compare, stage, numbers)
    return Custody(len(numbers) * len(load.METRICS), missing, double, stage.restarts(), drained_s)


async def _quiet(stage: Stage, wanted: int) -> float:
    """Wait until the table has not changed for a while, longer if rows are missing; seconds until the last change."""
    began_s = changed_s = time.perf_counter()
    seen = -1
    while (now_s := time.perf_counter()) - began_s < DRAIN_S_MAX:
        rows = await asyncio.to_thread(stage.rows)
        if rows != seen:
            seen, changed_s = rows, now_s
        elif now_s - changed_s > (QUIET_S if rows >= wanted else WAITING_S):
            break
        await asyncio.sleep(LOOK_S * 4)
    return changed_s - began_s


def _compare(stage: Stage, numbers: range) -> tuple[int, int]:
    verdict = judge(load.told(numbers), load.held(stage.client, stage.peer.table))
    return verdict.missing.total(), verdict.double.total()


def _machine_s() -> tuple[float, float]:
    """Seconds that all processors were busy, and that have passed on them."""
    times = psutil.cpu_times()
    total = sum(times) - times.guest - times.guest_nice
    return total - times.idle - times.iowait, total


def _own_s() -> float:
    """What this process has used: it plays the devices."""
    times = psutil.Process().cpu_times()
    return times.user + times.system

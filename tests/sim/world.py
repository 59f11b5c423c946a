"""One run: gateways, the trunk, ingest workers and ClickHouse, a schedule of faults, and the invariants.

Everything is drawn from the seed, so a run repeats exactly. Faults come at a random time or at a random step
(between any two awaits). Then all faults end, everything is started again, and the run must come to rest: all
is acknowledged, confirmed and in the tables once.
"""

import asyncio
import logging
import secrets
import shutil
import tempfile
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any
from unittest import mock

from clickhouse_connect.driver.exceptions import ClickHouseError

import broker_bridge.downlink
import broker_bridge.uplink
from broker_bridge import contract
from broker_bridge.contract import Receipt
from broker_bridge.downlink import Downlink
from broker_bridge.mqtt.client import Options
from ingest.config import Commit
from ingest.dictionaries import Dictionaries
from ingest.insert import FencedError, Inserter
from ingest.ledger import Ledger
from ingest.worker import Threads, Worker
from telemetry.backoff import Backoff
from telemetry.ranges import SeqRanges
from tests.sim.clickhouse import CURSED, Client, Server
from tests.sim.faults import FAULTS, Fault
from tests.sim.gateway import Disk, Gateway, SimClock
from tests.sim.loop import LIFE, Life, Signal, SimLoop, StuckError, Thread, drop_jobs
from tests.sim.network import Network, SimConnection

PARTITIONS = 4
NO_PROGRESS_S_MAX = 100.0
MEMORY = Path("/dev/shm")


class Stop:
    """In place of the worker's threading.Event."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop

    def wait(self, seconds: float) -> bool:
        return Signal(self._loop).wait(seconds)


@dataclass
class Ingest:
    """A slot for a worker process that owns some partitions; the supervisor starts the next when one ends."""

    world: "World"
    owned: list[int]
    life: Life | None = None
    hung: list[Life] = field(default_factory=list)
    failure: Exception | None = None

    def start(self) -> None:
        assert self.life is None
        self.life = Life(f"ingest {self.owned}")
        token = LIFE.set(self.life)
        try:
            self.world.loop.create_task(self._run(self.life))
        finally:
            LIFE.reset(token)

    def end(self) -> None:
        """SIGKILL."""
        if self.life is not None:
            self.life.ended = True
            self.world.drop(self.life)
            self.life = None

    async def _run(self, life: Life) -> None:
        world = self.world
        await asyncio.sleep(world.chance.choice((0.01, 0.3)))
        name = world.token(8)
        stop: Any = Stop(world.loop)
        clients: list[Any] = [Client(world.server) for _ in range(3)]
        intents, rows, marks = (Inserter(client, name, self.owned, stop) for client in clients)
        stages: list[Any] = [Thread(world.loop, lambda: world.chance.choice((0.0, 0.001))) for _ in range(3)]
        clock = world.cloud_clock
        own = set(self.owned)
        ledger = Ledger(marks, clock, intents, owns=lambda gateway: contract.partition_of(gateway, PARTITIONS) in own)
        commit = Commit(rows_max=world.chance.choice((5, 100, 200_000)), age_s_max=world.chance.choice((0.0, 0.2)))
        threads = Threads(*stages)
        worker = Worker(
            inserter=rows, ledger=ledger, partitions=PARTITIONS, commit=commit, clock=clock, threads=threads
        )
        worker._dictionaries = Dictionaries(world.chance.choice((1, 5, 20, 1000)))
        try:
            while True:
                try:
                    await worker.take_over()
                    break
                except ClickHouseError:
                    await asyncio.sleep(0.5)
            options = Options("trunk", 1883, f"ingest-{self.owned}")

            async def check_fence() -> None:
                while True:
                    try:
                        return await world.loop.run_in_executor(stages[2], ledger.check)
                    except ClickHouseError:
                        await asyncio.sleep(0.5)

            await worker.run(Downlink(options, self.owned, name, worker.take, check_fence))
        except* FencedError:
            pass
        except* Exception as group:  # noqa: BLE001 - the run's verdict
            self.failure = group
        if self.life is life:
            self.life = None


class World:
    """Everything in one run."""

    def __init__(self, seed: int, directory: Path) -> None:
        self.seed = seed
        self.chance = Random(seed)
        self.loop = SimLoop()
        self.log: deque[str] = deque(maxlen=400)
        self.violations: list[str] = []
        self.network = Network(self.loop, self._dice(), spoken=self._hear)
        self.server = Server(self.loop, self._dice(), on_ledger=self._ledger_written)
        self.cloud_clock = SimClock(self.loop)
        self.gateways = [
            Gateway(
                f"g{n}",
                self.loop,
                self._dice(),
                Disk(directory / f"g{n}", self._dice()),
                SimClock(self.loop),
                PARTITIONS,
                self._trimmed,
            )
            for n in range(self.chance.randint(1, 3))
        ]
        slots = self.chance.choice(([[0, 1, 2, 3]], [[0, 1], [2, 3]]))
        self.ingests = [Ingest(self, owned) for owned in slots]

    def _dice(self) -> Random:
        return Random(self.chance.getrandbits(64))

    def token(self, size: int) -> str:
        return self.chance.randbytes(size).hex()

    def say(self, text: str) -> None:
        self.log.append(f"{self.loop.time():9.3f}  {text}")

    def blame(self, text: str) -> None:
        self.say(f"VIOLATION {text}")
        self.violations.append(text)

    def drop(self, life: Life) -> None:
        """A process has ended: the kernel closes its connections."""
        for connection in list(self.network.connections):
            if connection.life is life:
                connection.cut(0.0)

    # Invariants that hold at every moment

    def _hear(self, topic: str, payload: bytes) -> None:
        if topic.startswith(f"{contract.ROOT}/receipt/"):
            receipt = Receipt.decode(payload)
            gateway = topic.rsplit("/", 1)[1]
            _, held = self.server.ledger.get((gateway, receipt.epoch), (0, SeqRanges()))
            if not all(held.covers(first, last) for first, last in receipt.ranges()):
                self.blame(f"a receipt says {receipt.ranges()}, the ledger of {gateway} says {held}")

    def _ledger_written(self, key: tuple[str, str], ranges: SeqRanges) -> None:
        if not all(self.server.is_stored(key, first, last) for first, last in ranges):
            self.blame(f"the ledger says {ranges} of {key}, the tables do not have it all")

    def _trimmed(self, gateway: str, epoch: str, mark: int) -> None:
        _, held = self.server.ledger.get((gateway, epoch), (0, SeqRanges()))
        if held.mark < mark:
            self.blame(f"{gateway} trims up to {mark}, the ledger says {held.mark}")

    # The run

    async def main(self) -> None:
        for gateway in self.gateways:
            gateway.start()
        for ingest in self.ingests:
            ingest.start()
        faults = self.loop.create_task(self._faults())
        end_s = self.chance.choice((3.0, 10.0, 30.0))
        while self.loop.time() < end_s:
            for number, gateway in enumerate(self.gateways):
                gateway.publish(self.chance.choice((0, 1, 3, 30)), 1_000_000 * (number + 1))
            await asyncio.sleep(self.chance.choice((0.01, 0.2, 1.0)))
        await faults
        await self._rest()

    async def _faults(self) -> None:
        for _ in range(self.chance.randint(0, 12)):
            fault = self.chance.choice(FAULTS)
            if self.chance.random() < 0.6:
                reached = asyncio.Event()

                def strike(fault: Fault = fault, reached: asyncio.Event = reached) -> None:
                    self.say(f"at a step: {fault.__name__}")
                    fault(self)
                    reached.set()

                self.loop.at_step(self.loop.steps + self.chance.randint(2, 400), strike)
                await reached.wait()
            else:
                await asyncio.sleep(self.chance.choice((0.0, 0.05, 0.5, 3.0)))
                self.say(fault.__name__)
                fault(self)

    def later(self, seconds: float, call: Callable[..., None], *args: Any) -> None:
        self.loop.call_later(seconds, call, *args)

    def pause_s(self) -> float:
        return self.chance.choice((0.1, 1.0, 8.0))

    async def _rest(self) -> None:
        """End all faults; then all must come to rest."""
        await asyncio.sleep(10.0)
        self.network.is_up, self.network.slow, self.network.repeats, self.network.old = True, 1.0, 0.0, 0.0
        self.server.is_up, self.server.refuses, self.server.unreliable = True, None, 0.0
        self.say("all faults have ended")
        progress, deadline_s = self._progress(), self.loop.time() + NO_PROGRESS_S_MAX
        while not self._at_rest():
            if self._progress() != progress:
                progress, deadline_s = self._progress(), self.loop.time() + NO_PROGRESS_S_MAX
            for gateway in self.gateways:
                gateway.disk.free, gateway.disk.fails = 10**12, False
                if gateway.life is None:
                    gateway.start()
            for ingest in self.ingests:
                if ingest.life is None:
                    ingest.start()
            if self.loop.time() > deadline_s:
                waiting = {g.name: (len(g.pending), g.spool and g.spool.status()) for g in self.gateways}
                return self.blame(f"nothing was confirmed for {NO_PROGRESS_S_MAX:g} s: {waiting}")
            if self.violations or any(part.failure is not None for part in (*self.gateways, *self.ingests)):
                return None
            await asyncio.sleep(0.5)
        await asyncio.sleep(20.0)  # what is late comes now, and must change nothing
        return None

    def _progress(self) -> list[int]:
        return [gateway.spool.mark if gateway.spool is not None else 0 for gateway in self.gateways]

    def _at_rest(self) -> bool:
        return all(
            not gateway.pending and gateway.spool is not None and gateway.spool.mark == gateway.spool.next_seq - 1
            for gateway in self.gateways
        )

    def verdict(self) -> None:
        """The invariants that hold in the end."""
        for part in (*self.gateways, *self.ingests):
            if part.failure is not None:
                self.blame(_flat(part.failure))
        if self.violations:
            return
        server = self.server
        for table in (server.readings, server.dead_letters):
            double = [key for key, rows in table.items() if len(rows) > 1]
            if double:
                self.blame(f"stored more than once: {double[:5]}")
        both = server.readings.keys() & server.dead_letters.keys()
        if both:
            self.blame(f"a reading and a dead letter: {list(both)[:5]}")
        for (gateway, epoch), (_, ranges) in server.ledger.items():
            lost = SeqRanges()
            lost_count = 0
            for g, e, first, last, _at in server.losses:
                if (g, e) == (gateway, epoch):
                    lost.add(first, last)
                    lost_count += last - first + 1
            counts = [sum(key[:2] == (gateway, epoch) for key in t) for t in (server.readings, server.dead_letters)]
            if ranges.mark != sum(counts) + lost_count or ranges.ahead or lost_count != lost.count():
                self.blame(f"{gateway}: mark {ranges.mark}, readings and dead letters {counts}, lost {lost_count}")
        for gateway_ in self.gateways:
            self._values(gateway_)

    def _values(self, gateway: Gateway) -> None:
        """By name and value: what devices published against what is stored."""
        sent: Counter[Any] = Counter()
        cursed = 0
        for message in gateway.messages:
            if message.values is None:
                sent[message.payload] += 1
            else:
                sent.update((message.name(i), value) for i, value in enumerate(message.values) if value != CURSED)
                cursed += message.values.count(CURSED)
        held: Counter[Any] = Counter()
        for (name, _epoch, _seq), rows in self.server.readings.items():
            held.update((row.name, row.value) for row in rows if name == gateway.name)
        for (name, _epoch, _seq), rows in self.server.dead_letters.items():
            held.update(row.value for row in rows if name == gateway.name)
        buried = [value for value in held if isinstance(value, bytes) and b'"value": "666.0"' in value]
        for value in buried:
            cursed -= held.pop(value)
        lost = sum(last - first + 1 for name, _, first, last, _ in self.server.losses if name == gateway.name)
        missing, double = sent - held, held - sent
        if double or missing.total() + max(cursed, 0) != lost:
            some = list(missing)[:3], list(double)[:3]
            self.blame(f"{gateway.name}: {missing.total()} missing, {double.total()} double, {lost} lost: {some}")


def _flat(error: BaseException) -> str:
    if isinstance(error, BaseExceptionGroup):
        return "; ".join(map(_flat, error.exceptions))
    return f"{type(error).__name__}: {error}"


class _Log(logging.Handler):
    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.say(f"[{LIFE.get().name}] {record.getMessage()}")


@contextmanager
def _patched(world: World) -> Iterator[None]:
    """What the code takes from its surroundings, from the world instead."""
    made = Backoff.__init__

    def backoff(self: Backoff, low: float, high: float) -> None:
        made(self, low, high, Random(world.chance.getrandbits(64)))

    def usage(path: Path) -> Any:
        (disk,) = (gateway.disk for gateway in world.gateways if gateway.disk.directory == path)
        return mock.Mock(free=disk.free)

    SimConnection.network = world.network
    handler, root = _Log(world), logging.getLogger()
    level = root.level
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(broker_bridge.uplink, "Connection", SimConnection))
        stack.enter_context(mock.patch.object(broker_bridge.downlink, "Connection", SimConnection))
        stack.enter_context(mock.patch.object(Backoff, "__init__", backoff))
        stack.enter_context(mock.patch.object(secrets, "token_hex", world.token))
        stack.enter_context(mock.patch.object(shutil, "disk_usage", usage))
        root.addHandler(handler)
        root.setLevel(logging.INFO)
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(level)


def run(seed: int) -> World:
    """One run; its `violations` are the verdict, its `log` the story."""
    place = tempfile.mkdtemp(prefix="fieldline-sim-", dir=MEMORY if MEMORY.is_dir() else None)
    world = World(seed, Path(place))
    try:
        with _patched(world):
            main = world.loop.create_task(world.main())
            try:
                world.loop.run_until_complete(main)
            except StuckError:
                world.blame("nothing can ever happen any more")
            world.verdict()
            _clear(world)
    finally:
        for gateway in world.gateways:
            gateway.dispose()
        shutil.rmtree(place, ignore_errors=True)
    return world


def _clear(world: World) -> None:
    """Let everything that still runs unwind, now that it can do no harm."""
    drop_jobs()
    for task in world.loop.tasks:
        if not task.done():
            task.cancel()
    for life in dict.fromkeys(task.life for task in world.loop.tasks):
        life.ended = False
        world.loop.thaw(life)
    world.loop.run_until_complete(_all_done(world.loop))
    world.loop.close()


async def _all_done(loop: SimLoop) -> None:
    me = asyncio.current_task()
    for _ in range(1000):
        if all(task.done() or task is me for task in loop.tasks):
            return
        await asyncio.sleep(0.1)
    raise AssertionError([task for task in loop.tasks if not task.done() and task is not me])

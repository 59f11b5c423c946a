"""A gateway: devices and their broker, and the real agent from group commit to uplink on a disk that tears.

The broker here is perfect (it keeps every message until it is acknowledged); its link to the agent is not.
What is published must be stored once, whatever happens to the agent.
"""

import asyncio
import contextlib
import errno
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

from broker_bridge.contract import Status
from broker_bridge.mqtt.client import Options
from broker_bridge.uplink import Uplink
from edge_agent.commit import GroupCommit
from edge_agent.config import GatewayConfig
from edge_agent.decode import Decoder
from edge_agent.spool import Spool
from telemetry.columns import Columns
from telemetry.delivery import Chunk, Delivery, Outcome
from tests.sim.clickhouse import CURSED
from tests.sim.loop import LIFE, Life, SimLoop, Thread, block

SECTOR = 512
NEW_YEAR_MS = 1_767_225_600_000
MONTH_MS = 31 * 86_400_000


class Violation(Exception):  # noqa: N818 - what the simulation looks for
    """An invariant is broken."""


@dataclass
class Message:
    """One publication. values: what must be in the table once; None: a dead letter."""

    number: int
    payload: bytes
    values: list[float] | None
    sent: bool = False
    acked: bool = False

    @property
    def key(self) -> int:
        return crc32(self.payload) << 16 | (self.number % 0xFFFF + 1)

    @property
    def device(self) -> str:
        return f"d{self.number % 3}"

    def name(self, index: int) -> str:
        """Of a value: device/metric."""
        return f"{self.device}/m{index}"


@dataclass
class SimClock:
    """The gateway's or the cloud's clock; `offset_ms` is how wrong it is."""

    loop: SimLoop
    offset_ms: int = 0

    def now_ms(self) -> int:
        return NEW_YEAR_MS + MONTH_MS - 20_000 + self.offset_ms + int(self.loop.time() * 1000)

    def monotonic_s(self) -> float:
        return self.loop.time()


class Disk:
    """The spool's directory, and what a power cut makes of the writes that no fsync has covered yet."""

    def __init__(self, directory: Path, chance: Random) -> None:
        self.directory = directory
        self.chance = chance
        self.unsynced: tuple[bytes, bytes] | None = None
        self.when_committed: Callable[[], None] | None = None
        self.free = 10**12
        self.fails = False

    @property
    def _files(self) -> tuple[Path, Path]:
        return self.directory / "spool.db", self.directory / "spool.db-wal"

    def begin(self) -> None:
        """A transaction begins: remember what is durable."""
        db, wal = self._files
        self.unsynced = db.read_bytes(), wal.read_bytes() if wal.exists() else b""

    def end(self) -> None:
        """Its fsync has returned."""
        self.unsynced = None

    def lose_power(self) -> None:
        """SQLite syncs the WAL before it copies it to the database: one of the two files was being written."""
        if self.unsynced is None:
            return
        (db, wal), (old_db, old_wal) = self._files, self.unsynced
        new_wal = wal.read_bytes() if wal.exists() else b""
        if db.read_bytes() == old_db or self.chance.random() < 0.5:
            db.write_bytes(old_db)
            wal.write_bytes(self._torn(old_wal, new_wal))
        else:
            db.write_bytes(self._torn(old_db, db.read_bytes()))
        (self.directory / "spool.db-shm").unlink(missing_ok=True)
        self.unsynced = None

    def _torn(self, old: bytes, new: bytes) -> bytes:
        """Sectors of either, the length of either or between."""
        size = self.chance.choice((len(old), len(new), self.chance.randint(*sorted((len(old), len(new))))))
        old, new = old.ljust(size, b"\0"), new.ljust(size, b"\0")
        fraction = self.chance.choice((0.0, 0.1, 0.5, 0.9, 1.0))
        sectors = range(0, size, SECTOR)
        return b"".join((new if self.chance.random() < fraction else old)[at : at + SECTOR] for at in sectors)[:size]


class SimSpool(Spool):
    """The real spool; each transaction takes time, and until it has passed a crash may tear it."""

    disk: Disk
    loop: SimLoop
    on_trim: Callable[[str, int], None]

    def _durable(self, transaction: Callable[[], Any]) -> Any:
        if self.disk.fails and self.disk.chance.random() < 0.7:
            raise OSError(errno.EIO, "input/output error")
        self.disk.begin()
        try:
            result = transaction()
        except Exception:  # rolled back
            self.disk.unsynced = None
            raise
        block(self.loop, self.disk.chance.choice((0.0, 0.001, 0.02)))
        self.disk.end()
        return result

    def append(self, columns: Columns, *more: Any) -> tuple[int, int]:
        first, last = self._durable(lambda: super(SimSpool, self).append(columns, *more))
        when_committed, self.disk.when_committed = self.disk.when_committed, None
        if when_committed is not None:
            when_committed()
        return first, last

    def trim(self, mark: int) -> None:
        self.on_trim(self.epoch, mark)
        self._durable(lambda: super(SimSpool, self).trim(mark))

    def renew_epoch(self) -> None:
        raise Violation("the spool knows less than the cloud, though the disk has kept its word")


@dataclass
class Gateway:
    """One gateway and its devices. `on_trim(gateway, epoch, mark)`."""

    name: str
    loop: SimLoop
    chance: Random
    disk: Disk
    clock: SimClock
    partitions: int
    on_trim: Callable[[str, str, int], None]
    config: GatewayConfig = field(init=False)
    long_rows: int = field(init=False)
    messages: list[Message] = field(default_factory=list)
    pending: list[Message] = field(default_factory=list)
    life: Life | None = None
    spool: SimSpool | None = None
    session: int = 0
    arrived: asyncio.Event = field(default_factory=asyncio.Event)
    failure: Exception | None = None

    def __post_init__(self) -> None:
        self.config = GatewayConfig.model_validate(
            {
                "gateway": self.name,
                "mqtt": {},
                "spool": {
                    "path": str(self.disk.directory),
                    "when_full": self.chance.choice(("block", "block", "drop_oldest")),
                    "free_bytes_min": 1000,
                },
                "collect": {
                    "commit_records_max": self.chance.choice((10, 100, 50_000)),
                    "commit_delay_ms": self.chance.choice((0, 5)),
                },
                "uplink": {
                    "partitions": self.partitions,
                    "batch_rows_max": self.chance.choice((3, 20, 10_000)),
                    "batch_age_s_max": self.chance.choice((0.0, 0.1, 0.5)),
                    "window_batches_max": self.chance.choice((1, 4, 16)),
                    "resend_s": self.chance.choice((1.0, 5.0)),
                },
            }
        )
        self.long_rows = self.chance.choice((5, 50, 5_000))

    @property
    def may_lose(self) -> bool:
        return self.config.spool.when_full == "drop_oldest"

    def publish(self, count: int, first_value: int) -> None:
        """Devices publish: one to three values per message, now and then nonsense or a cursed value."""
        for _ in range(count):
            number = len(self.messages)
            fate = self.chance.random()
            if fate < 0.03:
                message = Message(number, f"nonsense {first_value + number}".encode(), None)
            else:
                values = [float(first_value + 10 * number + i) for i in range(self.chance.randint(1, 3))]
                values += [CURSED] if fate > 0.99 else []
                age_ms = 0 if fate < 0.5 else self.chance.choice((0, 40_000, MONTH_MS))
                metrics = {f"m{i}": value for i, value in enumerate(values)}
                payload = json.dumps({"ts": self.clock.now_ms() - age_ms, **metrics}).encode()
                message = Message(number, payload, values)
            self.messages.append(message)
            self.pending.append(message)
        self.arrived.set()

    def start(self) -> None:
        """Start the agent."""
        assert self.life is None
        self.life = Life(self.name)
        token = LIFE.set(self.life)
        try:
            self.loop.create_task(self._agent(self.life))
        finally:
            LIFE.reset(token)

    def end(self, *, power_cut: bool) -> None:
        """SIGKILL, or a power cut."""
        life, spool = self.life, self.spool
        if life is None:
            return
        life.ended = True
        self.life = self.spool = None
        if spool is not None:
            files = {file: file.read_bytes() for file in self.disk.directory.glob("spool.db*")}
            with contextlib.suppress(Exception):
                spool._db.close()
            spool._lock.close()
            for file, content in files.items():  # closing is the last thing a killed process does
                file.write_bytes(content)
            (self.disk.directory / "spool.db-shm").unlink(missing_ok=True)
            if power_cut:
                self.disk.lose_power()
        self.disk.unsynced = self.disk.when_committed = None

    async def _agent(self, life: Life) -> None:
        await asyncio.sleep(self.chance.choice((0.01, 0.5)))
        spool = self.spool = self._open()
        thread: Any = Thread(self.loop, lambda: self.chance.choice((0.0, 0.0, 0.001, 0.01)))
        commit = GroupCommit(spool, Decoder(self.config, spool.series_id), self.config.collect, self.clock, thread)
        uplink = Uplink(
            source=spool,
            gateway=self.name,
            partitions=self.partitions,
            options=Options("trunk", 1883, f"uplink-{self.name}"),
            limits=replace(self.config.uplink.limits, long_rows=self.long_rows, first_rows=2),
            clock=self.clock,
            thread=thread,
            status=lambda: Status(spool.epoch, "1", 0, 0, 0, 0, 0, 0),
        )
        commit.on_commit = uplink.wake
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(commit.run())
                tasks.create_task(uplink.run())
                tasks.create_task(self._collect(commit, life))
        except* Exception as group:  # noqa: BLE001 - the run's verdict
            self.failure = group

    def _open(self) -> SimSpool:
        spool = SimSpool(self.config.spool, self.name, 1000)
        spool.disk, spool.loop = self.disk, self.loop
        spool.on_trim = lambda epoch, mark: self.on_trim(self.name, epoch, mark)
        return spool

    async def _collect(self, commit: GroupCommit, life: Life) -> None:
        """The link to the broker: sometimes it breaks, and acknowledgements on their way are lost."""
        while life is self.life:
            self.session += 1
            session, inflight = self.session, list(self.pending)
            unacked: list[Message] = []
            breaks_s = self.loop.time() + self.chance.choice((2.0, 20.0, 1000.0))
            while self.loop.time() < breaks_s:
                if not inflight:
                    self.arrived.clear()
                    inflight = [message for message in self.pending if message not in unacked]
                if not inflight:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(breaks_s - self.loop.time()):
                            await self.arrived.wait()
                    continue
                count = self.chance.choice((1, 2, 20))
                taken, inflight = inflight[:count], inflight[count:]
                unacked += taken
                await commit.deliver(self._delivery(taken, session, unacked))
                await asyncio.sleep(self.chance.choice((0.0, 0.001, 0.05)))

    def _delivery(self, taken: list[Message], session: int, unacked: list[Message]) -> Delivery[Chunk]:
        chunk = Chunk(
            self.clock.now_ms(),
            [f"devices/{message.device}/telemetry" for message in taken],
            [message.payload for message in taken],
            [message.key for message in taken],
            {index for index, message in enumerate(taken) if message.sent},
        )
        for message in taken:
            message.sent = True

        def settle(_outcome: Outcome) -> None:
            if session != self.session or LIFE.get().ended:
                return  # the acknowledgements went nowhere
            for message in taken:
                if unacked[0] is not message:
                    raise Violation("acknowledgements left out of order")
                unacked.pop(0)
                self.pending.remove(message)
                message.acked = True

        return Delivery(chunk, settle)

    def dispose(self) -> None:
        """The run is over."""
        if self.spool is not None:
            self.spool.close()
        shutil.rmtree(self.disk.directory, ignore_errors=True)

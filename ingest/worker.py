"""An ingest worker: receive -> admit -> prepare -> write -> settle -> receipt, for the partitions that it owns.

The event loop takes messages in, decodes batches and admits their new rows into the pending commit. Each of the stages
behind has a thread and a connection to ClickHouse of its own, and one commit at a time: prepare builds and encodes it
and declares its intent, write inserts its rows, settle states it in the ledger; then the receipts leave. So each commit
goes its way in that order, and the next ones follow behind it.

While commits are under way the next one grows, so batches of many gateways share blocks, and the slower ClickHouse is,
the larger the blocks; one that has grown to its limit is prepared meanwhile. Workers keep nothing on disk.

Limits: messages that wait to be decoded, admitted rows, and the commits that are prepared and written take at most
commit.buffer_bytes_max together, then the trunk is paused; a commit takes commit.rows_max rows, and between two stages
no more than one waits. Between two writes of them, REFUSED_MAX refused messages are kept, REFUSED_BYTES_MAX of each,
and STATUSES_MAX statuses.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass, field
from typing import TypeVar, TypeVarTuple, Unpack

import pyarrow as pa

from broker_bridge import contract
from broker_bridge.contract import REFUSED_CHARS_MAX, Hello, Receipt, Status
from broker_bridge.downlink import Downlink
from ingest.admit import Admission, Key, Slice
from ingest.config import Commit
from ingest.decode import decode
from ingest.dictionaries import Dictionaries, UndefinedSeriesError
from ingest.insert import Inserter
from ingest.ledger import Intent, Ledger
from ingest.tables import DEAD_LETTERS, GATEWAYS, Target
from ingest.writer import Prepared, Writer
from telemetry.clock import Clock
from telemetry.errors import WireError
from telemetry.wire import WIRE_BYTES_MAX

log = logging.getLogger(__name__)

T = TypeVar("T")
Args = TypeVarTuple("Args")

REFUSED_BYTES_MAX = 64 * 1024
REFUSED_MAX = 200
STATUSES_MAX = 20_000
GATEWAY_CHARS_MAX = 128
STATUS_EVERY_S = 2.0
EXPANSION = 4
"""Bytes that a compressed batch may take once decoded, per wire byte, as the buffer's limit counts it."""
BUILDING = 4
"""The same for a commit that is being prepared, per decoded byte: its batches, and the blocks made of them."""


@dataclass(slots=True)
class Counts:
    """Since the worker started."""

    batches: int = 0
    rows: int = 0
    repeated_batches: int = 0
    refused_batches: int = 0
    commits: int = 0


@dataclass(slots=True)
class Pending:
    """The commit that grows."""

    slices: list[Slice] = field(default_factory=list)
    rows: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Threads:
    """One for each stage: to prepare commits, to write their rows, and to settle them."""

    prepare: Executor
    write: Executor
    settle: Executor


class Worker:
    """One worker's life; a new one has a new id. inserter: for rows; the ledger has its own."""

    def __init__(
        self,
        *,
        inserter: Inserter,
        ledger: Ledger,
        partitions: int,
        commit: Commit,
        clock: Clock,
        threads: Threads,
    ) -> None:
        self._inserter = inserter
        self._ledger = ledger
        self._writer = Writer(inserter, ledger)
        self._partitions = partitions
        self._config = commit
        self._clock = clock
        self._threads = threads
        self._admission = Admission()
        self._dictionaries = Dictionaries()
        self._inbox: deque[tuple[str, bytes, int]] = deque()
        self._inbox_bytes = 0
        self._pending = Pending()
        self._preparing_bytes = 0
        self._ready: Prepared | None = None
        self._writing: Prepared | None = None
        self._written: asyncio.Queue[Intent] = asyncio.Queue(1)
        self._statuses: dict[str, Status] = {}
        self._refused: list[dict[str, object]] = []
        self._wake_admit = asyncio.Event()
        self._wake_prepare = asyncio.Event()
        self._wake_write = asyncio.Event()
        self.downlink: Downlink | None = None
        self.counts = Counts()

    async def take_over(self) -> None:
        """Own the partitions and load the ledger. Raises FencedError, ClickHouseError."""
        self._admission.load(await _in_thread(self._threads.settle, self._ledger.take_over))

    def take(self, topic: str, payload: bytes, payload_bytes: int) -> bool:
        """What the trunk brings; False when the buffer is full."""
        self._inbox.append((topic, payload, payload_bytes))
        self._inbox_bytes += len(payload)
        self._wake_admit.set()
        return not self._is_full

    @property
    def _held_bytes(self) -> int:
        """By commits, from the one that grows to the one that is being written."""
        made = sum(commit.bytes for commit in (self._ready, self._writing) if commit is not None)
        return self._pending.bytes + self._preparing_bytes + made

    @property
    def _is_full(self) -> bool:
        return EXPANSION * self._inbox_bytes + self._held_bytes > self._config.buffer_bytes_max

    @property
    def _may_grow(self) -> bool:
        return self._pending.rows < self._config.rows_max and self._held_bytes <= self._config.buffer_bytes_max

    async def run(self, downlink: Downlink) -> None:
        """Work until cancelled, or until fenced (FencedError in the group)."""
        self.downlink = downlink
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(downlink.run(), name="ingest-downlink")
            tasks.create_task(self._admit(), name="ingest-admit")
            tasks.create_task(self._prepare(), name="ingest-prepare")
            tasks.create_task(self._write(), name="ingest-write")
            tasks.create_task(self._settle(), name="ingest-settle")

    async def _admit(self) -> None:
        while True:
            while self._inbox and self._may_grow:
                topic, payload, payload_bytes = self._inbox.popleft()
                self._inbox_bytes -= len(payload)
                try:
                    _check_size(payload_bytes)
                    await self._handle(topic, payload)
                except UndefinedSeriesError as error:
                    await self._send_receipt(error.key, undefined=error.dictionary)
                except WireError as error:
                    await self._refuse(topic, payload, str(error))
                await asyncio.sleep(0)
            self._resume_if_room()
            await self._wake_admit.wait()
            self._wake_admit.clear()

    def _resume_if_room(self) -> None:
        if self.downlink is not None and not self._is_full:
            self.downlink.resume()

    async def _handle(self, topic: str, payload: bytes) -> None:
        partition, kind, gateway = contract.split_up_topic(topic)
        if not contract.is_name(gateway):
            raise WireError(f"{gateway!r} is not a gateway's name")
        if (expected := contract.partition_of(gateway, self._partitions)) != partition:
            raise WireError(
                f"gateway {gateway!r} sends to partition {partition}, but belongs to {expected}: "
                f"uplink.partitions in its config must be {self._partitions}, as in the config of ingest"
            )
        if kind == "batch":
            await self._handle_batch(gateway, payload)
        elif kind == "hello":
            await self._send_receipt((gateway, Hello.decode(payload).epoch))
        elif kind == "status":
            status = Status.decode(payload)
            if gateway in self._statuses or len(self._statuses) < STATUSES_MAX:
                self._statuses[gateway] = status
        else:
            raise WireError(f"{kind!r} is not a kind of message on the trunk")

    async def _handle_batch(self, gateway: str, payload: bytes) -> None:
        batch = decode(payload, gateway, self._dictionaries)
        self.counts.batches += 1
        new = self._admission.admit(batch)
        if not new:
            self.counts.repeated_batches += 1
            await self._send_receipt((gateway, batch.header.epoch))
            return
        self._pending.slices += new
        self._pending.rows += sum(part.rows for part in new)
        self._pending.bytes += batch.bytes
        self._wake_prepare.set()

    async def _refuse(self, topic: str, payload: bytes, reason: str) -> None:
        """Keep what cannot be accepted as a dead letter of no epoch, and tell its gateway why."""
        self.counts.refused_batches += 1
        gateway = topic.rsplit("/", maxsplit=1)[-1]
        reason = reason[:REFUSED_CHARS_MAX]
        if len(self._refused) < REFUSED_MAX:
            log.warning("Refused on %.200r: %s.", topic, reason)
            now_ms = self._clock.now_ms()
            letter = {"source": topic, "reason": reason, "raw": payload[:REFUSED_BYTES_MAX]}
            stamp = {"epoch": "", "seq": 0, "received_at": now_ms, "ingested_at": now_ms}
            self._refused.append({"gateway": gateway[:GATEWAY_CHARS_MAX], **stamp, **letter})
        if self.downlink is not None:
            await self.downlink.send_receipt(gateway, Receipt("", 0, worker=self._inserter.worker, refused=reason))

    async def _send_receipt(self, key: Key, undefined: str = "") -> None:
        if self.downlink is None:
            return
        ranges = self._admission.receipt_ranges(key)
        receipt = Receipt(key[1], ranges.mark, tuple(ranges.ahead), self._inserter.worker, undefined=undefined)
        await self.downlink.send_receipt(key[0], receipt)

    async def _prepare(self) -> None:
        """A commit is built age_s_max after the former one at the latest; after a rest it is built at once."""
        due_s = 0.0
        while True:
            pending, now_s = self._pending, self._clock.monotonic_s()
            is_due = self._writing is None and (now_s >= due_s or self._is_full)
            if pending.slices and self._ready is None and (is_due or not self._may_grow):
                due_s = now_s + self._config.age_s_max
                await self._build(pending)
                continue
            wait_s = due_s - now_s if pending.slices and due_s > now_s else STATUS_EVERY_S
            await _woken(self._wake_prepare, max(wait_s, 0.001))

    async def _build(self, pending: Pending) -> None:
        self._pending = Pending()
        self._preparing_bytes = BUILDING * pending.bytes
        self._wake_admit.set()
        self._ready = await _in_thread(self._threads.prepare, self._writer.prepare, pending.slices)
        self._preparing_bytes = 0
        self._wake_admit.set()
        self._wake_write.set()

    async def _write(self) -> None:
        status_due_s = 0.0
        while True:
            now_s = self._clock.monotonic_s()
            if now_s >= status_due_s:
                await self._write_statuses()
                status_due_s = now_s + STATUS_EVERY_S
            if self._ready is None:
                await _woken(self._wake_write, STATUS_EVERY_S)
                continue
            commit, self._ready = self._ready, None
            written = await self._insert_rows(commit)
            del commit  # its memory does not count any more
            await self._written.put(written)

    async def _insert_rows(self, commit: Prepared) -> Intent:
        self._writing = commit
        self._wake_prepare.set()
        await _in_thread(self._threads.write, self._writer.write, commit)
        self._writing = None
        self.counts.rows += commit.rows
        self._wake_admit.set()
        self._wake_prepare.set()
        self._resume_if_room()
        return commit.intent

    async def _settle(self) -> None:
        while True:
            await self._confirm(await self._written.get())
            self.counts.commits += 1

    async def _confirm(self, intent: Intent) -> None:
        """Its rows are in the tables: say so in the ledger, and then to their gateways."""
        marks = self._admission.after(intent.ranges)
        await _in_thread(self._threads.settle, self._ledger.settle, intent, marks)
        self._admission.commit(marks)
        self._resume_if_room()  # before the receipts: while paused, a broker that is gone is not noticed
        for key in marks:
            await self._send_receipt(key)

    async def _write_statuses(self) -> None:
        statuses, self._statuses = self._statuses, {}
        refused, self._refused = self._refused, []
        if statuses:
            now_ms = self._clock.now_ms()
            rows = [_gateway_row(gateway, status, now_ms) for gateway, status in statuses.items()]
            await self._insert(GATEWAYS, rows)
        if refused:
            await self._insert(DEAD_LETTERS, refused)

    async def _insert(self, target: Target, rows: list[dict[str, object]]) -> None:
        table = pa.Table.from_pylist(rows, target.schema)
        await _in_thread(self._threads.write, self._inserter.insert, target, table)


async def _in_thread(thread: Executor, call: Callable[[Unpack[Args]], T], *args: *Args) -> T:
    return await asyncio.get_running_loop().run_in_executor(thread, call, *args)


async def _woken(wake: asyncio.Event, seconds_max: float) -> None:
    try:
        async with asyncio.timeout(seconds_max):
            await wake.wait()
    except TimeoutError:
        return
    wake.clear()


def _check_size(payload_bytes: int) -> None:
    """Of a packet that is too large only the beginning came up."""
    if payload_bytes > WIRE_BYTES_MAX:
        raise WireError(f"the message is {payload_bytes} bytes long, the limit is {WIRE_BYTES_MAX}")


def _gateway_row(gateway: str, status: Status, now_ms: int) -> dict[str, object]:
    collectors = "; ".join(f"{name}: {state}" for name, state in status.collectors.items())
    return {
        "gateway": gateway,
        "epoch": status.epoch,
        "reported_at": now_ms,
        "agent_version": status.agent_version,
        "collectors": collectors,
        "spool_records": status.spool_records,
        "spool_bytes": status.spool_bytes,
        "spool_oldest_at": min(status.spool_oldest_at, 4_102_444_799_999) or None,
        "mark": status.mark,
        "last_seq": status.last_seq,
        "thinned": status.thinned,
    }

"""The trunk's edge end: from the spool to receipts.

On every connection the uplink first asks ("hello") and sends nothing until a receipt has told it what the
cloud holds. Then it cuts batches behind that mark, keeps at most `window_batches_max` of them unconfirmed,
and trims the spool as receipts come. If the backlog is long, live readings go before it (broker_bridge/window.py).
It asks again when a batch is overdue, and starts again behind the mark when another worker answers: what the
former one held in memory is gone. What the broker acknowledges proves nothing; a broker that is wiped, or absent
for a week, costs time only.

Series are defined once in a dictionary (telemetry.wire), and a new one begins wherever sending starts again. A worker
that has forgotten the present one says so; then, too, it starts again behind the mark. If that happens twice within
FORGOTTEN_S, the worker has no room for it, and from then on every batch defines its own series until sending starts
again for another reason. So a worker's limit, or somebody who plays old batches (which name old dictionaries), cannot
make it go round in circles.

The uplink never ends by an error: it reconnects with full jitter, up to reconnect_s_max apart.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeVar, TypeVarTuple, Unpack

from broker_bridge import contract
from broker_bridge.contract import Hello, Receipt, Status
from broker_bridge.mqtt.client import Connection, ConnectionLostError, Messages, Options
from broker_bridge.window import FIRST_ROWS, LONG_ROWS, Span, Window
from telemetry import wire
from telemetry.backoff import Backoff
from telemetry.clock import Clock
from telemetry.columns import Series
from telemetry.errors import FieldlineError, WireError
from telemetry.ranges import SeqRanges
from telemetry.records import Loss, Records

log = logging.getLogger(__name__)

T = TypeVar("T")
Args = TypeVarTuple("Args")

STATUS_EVERY_S = 5.0
HELLO_S_MIN, HELLO_S_MAX = 1.0, 15.0
FORGOTTEN_S = 600.0


class Source(Protocol):
    """The spool, as the uplink sees it; every method blocks and is called in the spool's thread.

    is_copy: its agent may have sent more since the copy was made; the cloud may then know seqs beyond next_seq.
    """

    is_copy: bool
    epoch: str
    mark: int
    next_seq: int

    def read(self, after_seq: int, records_max: int, bytes_max: int) -> Records | Loss | None: ...
    def series(self, id_: int) -> Series: ...
    def trim(self, mark: int) -> None: ...
    def renew_epoch(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Limits:
    """See the section [uplink] of the gateway's config; long_rows, first_rows: see broker_bridge/window.py."""

    batch_rows_max: int
    batch_bytes_max: int
    batch_age_s_max: float
    window_batches_max: int
    resend_s: float
    reconnect_s_max: float
    long_rows: int = LONG_ROWS
    first_rows: int = FIRST_ROWS


class Uplink:
    """One gateway's end of the trunk. `wake` is called after every commit to the spool.

    status: what to report of the agent; None for a source that is not its own spool.
    """

    def __init__(
        self,
        *,
        source: Source,
        gateway: str,
        partitions: int,
        options: Options,
        limits: Limits,
        clock: Clock,
        thread: ThreadPoolExecutor,
        status: Callable[[], Status] | None = None,
    ) -> None:
        self._source = source
        self._gateway = gateway
        self._partition = contract.partition_of(gateway, partitions)
        self._options = options
        self._limits = limits
        self._clock = clock
        self._thread = thread
        self._status = status
        self._window = Window(
            limits.window_batches_max, limits.batch_rows_max, limits.resend_s, limits.long_rows, limits.first_rows
        )
        self._dictionary: wire.Dictionary | None = None
        self._forgotten_s: float | None = None
        self._worker = ""
        self._receipts: list[Receipt] = []
        self._worker_changed = False
        self._wake = asyncio.Event()
        self._unsent_since_s: float | None = None
        self._state = "not connected yet"
        self._refused = ""
        self._connected = False

    def wake(self) -> None:
        """There may be something new to send."""
        if self._unsent_since_s is None:
            self._unsent_since_s = self._clock.monotonic_s()
        self._wake.set()

    def state(self) -> str:
        """One short sentence for people."""
        return self._state

    @property
    def connected(self) -> bool:
        """Whether the trunk's broker is reached."""
        return self._connected

    async def run(self) -> None:
        """Send until cancelled."""
        backoff = Backoff(0.1, self._limits.reconnect_s_max)
        while True:
            try:
                await self._session(backoff)
            except* (FieldlineError, OSError) as group:
                self._say("; ".join(str(error) for error in group.exceptions))
            if (task := asyncio.current_task()) is not None and task.cancelling():
                # We were cancelled just as the connection was lost: of the two, a TaskGroup tells only the error.
                raise asyncio.CancelledError
            await asyncio.sleep(backoff.next_s())

    async def _session(self, backoff: Backoff) -> None:
        connection = await Connection.open(self._options, self._on_messages)
        try:
            await connection.subscribe([contract.receipt_topic(self._gateway), contract.worker_topic(self._partition)])
            backoff.reset()
            self._connected = True
            self._say(f"connected to {self._options.host}:{self._options.port}, waiting for a receipt")
            async with asyncio.TaskGroup() as tasks:
                if self._status is not None:
                    tasks.create_task(self._report(connection, self._status), name="uplink-status")
                tasks.create_task(self._send(connection, tasks), name="uplink-send")
                # Waiting here and not in a task of its own: a group that is still in its body when a task fails
                # takes back its own cancel of us (see run).
                raise ConnectionLostError(await connection.closed)
        finally:
            self._connected = False
            await connection.close()

    async def _report(self, connection: Connection, status: Callable[[], Status]) -> None:
        topic = contract.up_topic(self._partition, "status", self._gateway)
        while True:
            said = await self._in_thread(status)
            await connection.publish(topic, said.encode(), qos=0)
            await asyncio.sleep(STATUS_EVERY_S)

    def _on_messages(self, messages: Messages, connection: Connection) -> None:
        for topic, payload in zip(messages.topics, messages.payloads, strict=True):
            if topic == contract.worker_topic(self._partition):
                self._worker_changed = True
                continue
            try:
                receipt = Receipt.decode(payload)
            except WireError as error:
                log.warning("On %s: %s.", topic, error)
                continue
            if receipt.refused:
                self._hear_refusal(receipt.refused)
            elif receipt.epoch == self._source.epoch:
                self._receipts.append(receipt)
        connection.ack(messages.packet_ids)
        self._wake.set()

    def _hear_refusal(self, reason: str) -> None:
        if reason != self._refused:
            log.error("The cloud refuses a batch: %s", reason)
        self._refused = reason
        self._state = f"the cloud refuses a batch: {reason}"

    async def _send(self, connection: Connection, tasks: asyncio.TaskGroup) -> None:
        while True:
            await self._ask(connection)
            await self._stream(connection, tasks)

    async def _ask(self, connection: Connection) -> None:
        """Say hello until a receipt answers; start behind its mark."""
        self._receipts.clear()
        pause = Backoff(HELLO_S_MIN, HELLO_S_MAX)
        topic = contract.up_topic(self._partition, "hello", self._gateway)
        while not self._receipts:
            self._worker_changed = False
            await connection.publish(topic, Hello(self._source.epoch).encode(), qos=0)
            deadline_s = self._clock.monotonic_s() + pause.next_s()
            while not (self._receipts or self._worker_changed):
                if not await self._woken_within(deadline_s - self._clock.monotonic_s()):
                    break
            if self._worker_changed:  # a whole partition hears of it at once: spread the answers
                await asyncio.sleep(pause.chance.uniform(0, HELLO_S_MIN))
        self._say(f"connected to {self._options.host}:{self._options.port}")
        self._rewind(SeqRanges())
        await self._take_receipts()
        self._rewind(self._window.confirmed)

    async def _stream(self, connection: Connection, tasks: asyncio.TaskGroup) -> None:
        """Send and trim until a batch is in doubt."""
        topic = contract.up_topic(self._partition, "batch", self._gateway)
        while True:
            await self._take_receipts()
            if self._worker_changed:
                return
            due_s = self._window.overdue_in_s(self._clock.monotonic_s())
            if due_s is not None and due_s <= 0:
                log.info("No receipt for %.0f s: asking again.", self._limits.resend_s)
                return
            wait_s, span = self._next()
            if span is not None and (batch := await self._in_thread(self._cut, span, self._dictionary)):
                first, last, payload = batch
                self._window.sent(first, last, self._clock.monotonic_s())
                tasks.create_task(connection.publish(topic, payload), name="uplink-publish")
                continue
            await self._woken_within(min(s for s in (wait_s, due_s, 60.0) if s is not None and s > 0))

    def _next(self) -> tuple[float | None, Span | None]:
        """(seconds until the newest should leave, what should leave now): live readings before a backlog."""
        live = self._window.live(self._source.next_seq - 1)
        if live is None:
            self._unsent_since_s = None
            return None, self._window.backlog()
        now_s = self._clock.monotonic_s()
        if self._unsent_since_s is None:
            self._unsent_since_s = now_s
        wait_s = self._unsent_since_s + self._limits.batch_age_s_max - now_s
        if wait_s <= 0 or live.last_seq - live.after_seq >= self._limits.batch_rows_max:
            return 0, live
        return wait_s, self._window.backlog()

    def _cut(self, span: Span, dictionary: wire.Dictionary | None) -> tuple[int, int, bytes] | None:
        """Read and encode the next batch: (first_seq, last_seq, wire bytes)."""
        if not span.is_backlog:
            self._unsent_since_s = None
        rows_max = min(self._limits.batch_rows_max, span.last_seq - span.after_seq)
        found = self._source.read(span.after_seq, rows_max, self._limits.batch_bytes_max)
        if found is None:
            return None
        header = wire.Header(self._gateway, self._source.epoch, found.first_seq, found.last_seq - found.first_seq + 1)
        if isinstance(found, Loss):
            payload = wire.encode_loss(header, found.reason, found.declared_at)
            return found.first_seq, found.last_seq, payload
        payload = wire.encode(header, found.columns, self._source.series, dictionary)
        return found.first_seq, found.last_seq, payload

    async def _take_receipts(self) -> None:
        """Apply all receipts that came; another worker's receipt means: start again behind it."""
        receipts, self._receipts = self._receipts, []
        for receipt in receipts:
            committed = receipt.ranges()
            if committed.last >= self._source.next_seq and not self._source.is_copy:
                await self._renew_epoch(receipt.epoch, committed.last)
                return
            if self._source.mark:
                committed.add(1, self._source.mark)  # by an earlier receipt; a late one cannot take it back
            if receipt.worker != self._worker:
                self._worker = receipt.worker
                self._rewind(committed)
            elif self._dictionary is not None and receipt.undefined == self._dictionary.id:
                self._window.confirm(committed, self._clock.monotonic_s())
                self._define_again()
            else:
                self._window.confirm(committed, self._clock.monotonic_s())
        if self._window.confirmed.mark > self._source.mark:
            await self._in_thread(self._source.trim, self._window.confirmed.mark)

    async def _renew_epoch(self, epoch: str, last_seq: int) -> None:
        log.error(
            "The cloud holds records up to %d of epoch %s, the spool knows only %d: its disk lost commits, "
            "or an old copy was restored. What is waiting is sent again under a new epoch.",
            last_seq,
            epoch,
            self._source.next_seq - 1,
        )
        await self._in_thread(self._source.renew_epoch)
        self._rewind(SeqRanges())
        self._worker_changed = True  # ask again, with the new epoch

    def _rewind(self, confirmed: SeqRanges) -> None:
        self._window.rewind(confirmed, self._source.next_seq - 1)
        self._dictionary = wire.Dictionary()

    def _define_again(self) -> None:
        """The worker does not know the dictionary any more."""
        now_s = self._clock.monotonic_s()
        is_again = self._forgotten_s is not None and now_s - self._forgotten_s < FORGOTTEN_S
        self._forgotten_s = now_s
        self._rewind(self._window.confirmed)
        if is_again:
            self._dictionary = None

    async def _woken_within(self, seconds: float) -> bool:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    async def _in_thread(self, call: Callable[[Unpack[Args]], T], *args: *Args) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call, *args)

    def _say(self, state: str) -> None:
        if state != self._state:
            log.info("Uplink: %s", state)
        self._state = state

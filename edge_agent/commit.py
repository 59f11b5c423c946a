"""Group commit: from deliveries to durable records to acknowledgements.

Collectors call `deliver`, which decodes at once into the open group's columns. `run` commits one group
after another in the spool's thread; while one commit waits for the disk the next group grows, so the slower
the disk, the larger the groups. Only after the commit are the group's deliveries settled, in order of
arrival (invariant 1), and what decoding it led to is published. A group that cannot be committed now (spool full,
disk error) is kept and tried again; meanwhile `deliver` takes nothing and blocks, and the collectors push back to
their senders. While none comes, windows are looked at that may be due (edge_agent.windows).

Limits: the open group takes no more deliveries at commit_records_max records or GROUP_BYTES_MAX of payloads, or
a quarter of spool.bytes_max if that is less: the config sees to it that one delivery more still fits.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from edge_agent.config import Collect
from edge_agent.decode import Decoder
from edge_agent.spool import Spool
from telemetry.clock import Clock
from telemetry.columns import Columns
from telemetry.delivery import DURABLE, Chunk, Delivery, Outcome
from telemetry.errors import FieldlineError

log = logging.getLogger(__name__)

GROUP_BYTES_MAX = 16 * 1024 * 1024
RETRY_S = 0.5
WINDOWS_EVERY_S = 1.0
"""How often windows are looked at when no message comes."""


@dataclass(slots=True)
class Group:
    """What the next commit will hold, and whom to tell."""

    columns: Columns = field(default_factory=Columns)
    keys: list[int] = field(default_factory=list)
    known: set[int] = field(default_factory=set)
    settles: list[tuple[Callable[[Outcome], None], Outcome]] = field(default_factory=list)
    births: dict[str, bytes | None] = field(default_factory=dict)
    commands: list[tuple[str, bytes]] = field(default_factory=list)
    thinned: int = 0
    windows: dict[int, bytes] = field(default_factory=dict)
    payload_bytes: int = 0


@dataclass(slots=True)
class Counts:
    """Since the agent started."""

    messages: int = 0
    repeated: int = 0
    records: int = 0
    dead_letters: int = 0
    ignored: int = 0
    commits: int = 0


class GroupCommit:
    """The agent's decode and spool stages as one object with two ends: `deliver` and `run`."""

    def __init__(
        self, spool: Spool, decoder: Decoder, config: Collect, clock: Clock, thread: ThreadPoolExecutor
    ) -> None:
        self._spool = spool
        self._decoder = decoder
        self._config = config
        self._clock = clock
        self._thread = thread
        self._bytes_max = min(GROUP_BYTES_MAX, spool.bytes_max // 4)
        self._open = Group()
        self._committing = Group()
        self._filled = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self.on_commit: Callable[[], None] = lambda: None
        self.publish: Callable[[str, bytes], None] = lambda _topic, _payload: None
        self.counts = Counts()
        self.looks = 0
        """How often windows were looked at while no message came."""
        self.trouble = ""

    async def deliver(self, delivery: Delivery[Chunk]) -> None:
        """Take a delivery into the open group; blocks while that is full."""
        while not self._room.is_set():
            await self._room.wait()
        messages, group = delivery.payload, self._open
        repeated = {i for i in messages.redelivered if self._is_repeated(messages, i)}
        thinned = self._decoder.thinned
        refused = self._decoder.decode(messages, group.columns, repeated)
        group.thinned += self._decoder.thinned - thinned
        group.windows |= self._decoder.take_windows()
        if todo := self._decoder.take():
            group.births |= todo.births
            group.commands += todo.commands
        group.keys += filter(None, messages.keys)  # 0: a message that is never sent again (QoS 0)
        group.known.update(messages.keys)
        group.settles.append((delivery.settle, Outcome(refused) if refused else DURABLE))
        group.payload_bytes += sum(map(len, messages.payloads))
        self.counts.messages += len(messages.payloads)
        self.counts.repeated += len(repeated)
        self.counts.dead_letters += len(refused)
        self.counts.ignored = self._decoder.ignored
        if self._is_full(group):
            self._room.clear()
        self._filled.set()

    def _is_full(self, group: Group) -> bool:
        return len(group.columns) >= self._config.commit_records_max or group.payload_bytes >= self._bytes_max

    def _is_repeated(self, messages: Chunk, index: int) -> bool:
        return any(map(self._knows, messages.known_as.get(index) or [messages.keys[index]]))

    def _knows(self, key: int) -> bool:
        return self._spool.knows(key) or key in self._committing.known or key in self._open.known

    async def run(self) -> None:
        """Commit groups until cancelled. What was not committed is not settled: its senders have it."""
        while True:
            await self._something()
            if self._room.is_set() and self._config.commit_delay_ms:
                await asyncio.sleep(self._config.commit_delay_ms / 1000)
            group, self._open = self._open, Group()
            self._committing = group
            self._filled.clear()
            self._room.set()
            if len(group.columns) or group.thinned:
                await self._commit(group)
            self._committing = Group()
            for settle, outcome in group.settles:
                settle(outcome)
            for topic, payload in group.commands:
                self.publish(topic, payload)
            self.on_commit()

    async def _something(self) -> None:
        """Wait for a delivery, or for a window that is due because nothing has come into it for long."""
        while not self._filled.is_set():
            if not self._decoder.has_windows:
                await self._filled.wait()
                return
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(WINDOWS_EVERY_S):
                    await self._filled.wait()
                return
            self.looks += 1
            self._decoder.close_windows(self._clock.now_ms(), self._open.columns)
            self._open.windows |= self._decoder.take_windows()
            if len(self._open.columns):
                return

    async def _commit(self, group: Group) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                await loop.run_in_executor(
                    self._thread,
                    self._spool.append,
                    group.columns,
                    group.keys,
                    self._clock.now_ms(),
                    group.births,
                    group.thinned,
                    group.windows,
                )
            except (FieldlineError, OSError) as error:
                self._say(str(error) if isinstance(error, FieldlineError) else f"cannot write the spool: {error}")
                await asyncio.sleep(RETRY_S)
            else:
                self._say("")
                self.counts.records += len(group.columns)
                self.counts.commits += 1
                return

    def _say(self, trouble: str) -> None:
        """Log a trouble when it begins and when it ends, not at every attempt. Meanwhile nothing is taken."""
        if trouble:
            self._room.clear()
        elif self.trouble and not self._is_full(self._open):
            self._room.set()
        if bool(trouble) != bool(self.trouble):
            log.warning("%s", trouble or "The spool takes records again.")
        self.trouble = trouble

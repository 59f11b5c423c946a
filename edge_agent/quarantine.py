"""Damaged spools: kept aside, what is whole in them delivered, the rest declared lost.

A database that SQLite cannot read is moved into corrupt-*/ in the spool's directory, and collecting goes on with a
new epoch at once. Beside it the agent reads the damaged file page by page (edge_agent.spool_copy) and sends what it
finds under the old epoch and seqs; then it writes `delivered` there. Nothing is deleted.
"""

import asyncio
import json
import logging
import os
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from broker_bridge.uplink import Uplink
from edge_agent.config import GatewayConfig
from edge_agent.delivery import deliver
from edge_agent.spool_copy import KNOWN_FILE, Known, SpoolCopy
from telemetry.clock import Clock
from telemetry.errors import FieldlineError, SpoolCorruptError

log = logging.getLogger(__name__)

DELIVERED = "delivered"
"""In a directory whose readable records are in ClickHouse: a sentence about them."""


def directories(path: Path) -> list[Path]:
    """Those of the damaged spools beside a spool, the latest last."""
    return sorted(path.glob("corrupt-*/"))


def move_aside(path: Path, error: SpoolCorruptError, known: Known | None = None) -> None:
    """Keep a damaged spool's files in a directory of their own; no agent may have it open.

    known: its numbers, where an agent still has them. Raises FieldlineError.
    """
    kept = path / f"corrupt-{time.time_ns()}"
    try:
        kept.mkdir()
        if known is not None:
            (kept / KNOWN_FILE).write_text(json.dumps(known._asdict()))
        (path / "spool.db").rename(kept / "spool.db")  # first, see `complete`
        complete(path)
    except OSError as trouble:
        raise FieldlineError(f"cannot move the damaged spool in {path} aside: {trouble}") from trouble
    log.error("The spool in %s is damaged (%s). It is kept in %s; a new epoch begins.", path, error, kept)


def complete(path: Path) -> None:
    """Move what belongs to a database that has gone: after a crash of `move_aside`, the log may be left behind."""
    if (path / "spool.db").exists() or not (found := directories(path)):
        return
    for file in [*path.glob("spool.db-*"), *path.glob("damaged-*.chunk")]:
        file.rename(found[-1] / file.name)
    for directory in (found[-1], path):
        opened = os.open(directory, os.O_RDONLY)
        os.fsync(opened)
        os.close(opened)


def journal(path: Path) -> list[int]:
    """The fingerprints of the last messages that the latest damaged spool had taken, as far as they can be read.

    A device broker will send again what was not acknowledged when the damage was found.
    """
    try:
        with closing(SpoolCopy(directories(path)[-1] / "spool.db")) as copy:
            return copy.journal
    except (IndexError, FieldlineError):
        return []


@dataclass(frozen=True, slots=True)
class Kept:
    """A damaged spool. delivered: what was said when it was, else empty."""

    directory: Path
    bytes: int
    delivered: str


def kept(path: Path) -> list[Kept]:
    """The damaged spools beside a spool, the latest last."""
    return [
        Kept(directory, sum(file.stat().st_size for file in directory.iterdir()), _delivered(directory))
        for directory in directories(path)
    ]


def _delivered(directory: Path) -> str:
    try:
        return (directory / DELIVERED).read_text().strip()
    except OSError:
        return ""


class Quarantine:
    """The agent's part that delivers damaged spools, one after another."""

    def __init__(self, config: GatewayConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._waiting = [directory for directory in directories(config.spool.path) if not _delivered(directory)]
        self._state = "not started yet"
        self._connected = False

    def __bool__(self) -> bool:
        """Whether there is anything to deliver."""
        return bool(self._waiting)

    def state(self) -> str:
        """One short sentence for people."""
        return self._state

    @property
    def connected(self) -> bool:
        """Whether the trunk's broker is reached, or no longer needed."""
        return self._connected

    async def run(self) -> None:
        """Deliver what waits. Ends by itself; never by an error."""
        for directory in self._waiting:
            try:
                await self._deliver(directory)
            except (FieldlineError, OSError) as error:
                self._state = f"{directory.name}: {error}"
                log.error("Damaged spool %s: nothing is delivered: %s", directory, error)
        self._connected = True

    async def _deliver(self, directory: Path) -> None:
        opened = await asyncio.to_thread(SpoolCopy, directory / "spool.db", self._config.gateway)
        with closing(opened) as copy:
            begin, end = copy.mark, copy.next_seq - 1
            what = f"{end - begin} records behind seq {begin} of epoch {copy.epoch}, {copy.readable} of them readable"
            log.warning("Damaged spool %s: delivering %s, the rest is declared lost.", directory, what)

            def watch(uplink: Uplink) -> None:
                self._connected = uplink.connected
                self._state = f"{directory.name}: {min(copy.mark, end) - begin} of {end - begin} records delivered"

            await deliver(copy, self._config.uplink, f"fieldline-salvage-{copy.gateway}", self._clock, watch)
        (directory / DELIVERED).write_text(f"{what}\n")
        self._state = f"{directory.name}: {what}: delivered, the rest declared lost"
        log.warning("Damaged spool %s: delivered. It is not needed any more.", directory)

"""What a fault of the drill can reach, and what several of them do.

The links stand between device broker and agent, agent and trunk broker, ingest and ClickHouse.
"""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.spool_file import Status
from ingest.clickhouse.client import Client
from proof.link import Link
from proof.meddler import Meddler
from proof.stack import Stack
from proof.supervisor import Program

KEEPALIVE_S = 5
"""Of the drill's agent and worker: a broker gives them up after one and a half of these."""
HANG_S = (1.0, 10.0)
LAST_S = (1.5, 6.0)


@dataclass(slots=True)
class Links:
    """Where the network can go bad."""

    device: Link
    trunk: Link
    clickhouse: Link


@dataclass(slots=True)
class Scene:
    """The stack under test, what stands between its parts, and who meddles on the trunk.

    chance draws what is random in a fault, so that a seed gives the same faults in the same order.
    clock: the file by which libfaketime sets the agent's clock, where it is installed.
    thinned: how many readings each spool has left out on purpose, by epoch, as it said last.
    """

    stack: Stack
    links: Links
    meddler: Meddler
    client: Client
    chance: random.Random
    clock: Path | None
    thinned: dict[str, int] = field(default_factory=dict)

    def status(self) -> Status | None:
        """The spool's, of which the count of readings that were left out is remembered."""
        status = self.stack.spool_status()
        if status is not None:
            self.thinned[status.epoch] = status.thinned
        return status

    def program(self, name: str) -> Program:
        """One of the stack's."""
        return self.stack.programs[name]

    async def last(self) -> None:
        """As long as a fault lasts."""
        await asyncio.sleep(self.chance.uniform(*LAST_S))

    async def moment(self) -> None:
        """A part of a fault that has several."""
        await asyncio.sleep(self.chance.uniform(0.3, 2.0))

    @contextlib.asynccontextmanager
    async def hanging(self, name: str) -> AsyncIterator[None]:
        """SIGSTOP, and SIGCONT in the end."""
        self.program(name).signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.program(name).signal(signal.SIGCONT)

    async def hang(self, name: str) -> None:
        """For longer than the keepalive, or not."""
        async with self.hanging(name):
            await asyncio.sleep(self.chance.uniform(*HANG_S))

    @contextlib.asynccontextmanager
    async def altered(self, table: str, setting: str) -> AsyncIterator[None]:
        """A table of ClickHouse with this setting at 1."""
        change = f"ALTER TABLE fieldline.{table}"
        await asyncio.to_thread(self.client.command, f"{change} MODIFY SETTING {setting} = 1")
        try:
            yield
        finally:
            await asyncio.to_thread(self.client.command, f"{change} RESET SETTING {setting}")

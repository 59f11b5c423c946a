"""Somebody on the trunk who sends batches again: twice, in another order, and old ones from a recording.

What the promise calls an idempotent trunk: whatever it sends, the tables must end up the same.
"""

import asyncio
import contextlib
import random
from collections import deque
from dataclasses import dataclass, field

from broker_bridge import contract
from broker_bridge.mqtt.client import Connection, Messages, Options
from telemetry.errors import FieldlineError

RECORDED_MAX = 500
RECONNECT_S = 0.5


@dataclass(slots=True)
class Meddler:
    """Listens to all batches while `run` runs; `meddle` sends some again. sent: how many so far."""

    port: int
    chance: random.Random
    recording: list[tuple[str, bytes]] = field(default_factory=list)
    latest: deque[tuple[str, bytes]] = field(default_factory=lambda: deque(maxlen=50))
    sent: int = 0
    _connection: Connection | None = None

    async def run(self) -> None:
        """Stay connected until cancelled."""
        options = Options("127.0.0.1", self.port, "drill-meddler")
        while True:
            with contextlib.suppress(FieldlineError):
                self._connection = await Connection.open(options, self._hear)
                try:
                    await self._connection.subscribe([f"{contract.ROOT}/+/batch/+"], qos=0)
                    await self._connection.closed
                finally:
                    await self._connection.close()
                    self._connection = None
            await asyncio.sleep(RECONNECT_S)

    def _hear(self, messages: Messages, _connection: Connection) -> None:
        for message in zip(messages.topics, messages.payloads, strict=True):
            self.latest.append(message)
            if len(self.recording) < RECORDED_MAX and self.chance.random() < 0.2:  # old ones stay old
                self.recording.append(message)

    async def meddle(self, count: int) -> None:
        """Send so many of the latest and the recorded batches again, shuffled."""
        for _ in range(count):
            heard = [*self.latest, *self.recording]
            if heard and self._connection is not None:
                with contextlib.suppress(FieldlineError):
                    await self._connection.publish(*self.chance.choice(heard), qos=0)
                    self.sent += 1
            await asyncio.sleep(0.01)

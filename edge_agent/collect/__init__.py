"""Collectors: how messages reach the agent. One file per protocol, one line in COLLECTORS.

A collector receives messages, groups those that arrived together into a Chunk, hands it over with
`await deliver(Delivery(chunk, settle))`, and acknowledges to the sender only when `settle` is called.
While `deliver` does not return, it takes nothing more from its sender.
"""

import asyncio
from typing import Protocol, runtime_checkable

from telemetry.delivery import Chunk, Deliver, Delivery, Outcome


class Collector(Protocol):
    """What a protocol must provide."""

    async def run(self, deliver: Deliver) -> None:
        """Collect until cancelled. Reconnects by itself; raises only for what a user must change."""
        ...

    def state(self) -> str:
        """One short sentence for people: connected to what, or what is wrong."""
        ...

    @property
    def connected(self) -> bool:
        """Whether senders can reach it now."""
        ...


async def handed_over(deliver: Deliver, chunk: Chunk) -> asyncio.Future[Outcome]:
    """Deliver a chunk; what is returned has its outcome once it is durable."""
    done: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

    def settle(outcome: Outcome) -> None:
        if not done.done():  # cancelled: nobody waits for it any more
            done.set_result(outcome)

    await deliver(Delivery(chunk, settle))
    return done


@runtime_checkable
class Publisher(Protocol):
    """A collector that can also tell something to where its messages come from."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish now or never: while nothing is connected, nothing is published."""
        ...

"""Collectors: how messages reach the agent. One file per protocol, one line in COLLECTORS.

A collector receives messages, groups those that arrived together into a Chunk, hands it over with
`await deliver(Delivery(chunk, settle))`, and acknowledges to the sender only when `settle` is called.
While `deliver` does not return, it takes nothing more from its sender.
"""

from typing import Protocol, runtime_checkable

from telemetry.delivery import Deliver


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


@runtime_checkable
class Publisher(Protocol):
    """A collector that can also tell something to where its messages come from."""

    def publish(self, topic: str, payload: bytes) -> None:
        """Publish now or never: while nothing is connected, nothing is published."""
        ...

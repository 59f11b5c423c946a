"""A payload that travels with its own acknowledgement.

A delivery that is never settled is never acknowledged, and its sender sends it again: a crash, a cancel
and a shutdown need no code. Whoever ends a payload's journey calls `settle` exactly once.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Outcome:
    """Everything in the delivery is durable. `refused` maps a message's index to the sentence that says
    why it became a dead letter instead of readings (it is durable all the same).
    """

    refused: Mapping[int, str] = field(default_factory=dict)


DURABLE = Outcome()


@dataclass(frozen=True, slots=True)
class Delivery(Generic[T]):
    """`settle` runs on the event loop's thread, at most once, and in the order of the deliveries."""

    payload: T
    settle: Callable[[Outcome], None]


@dataclass(slots=True)
class Chunk:
    """Messages that a collector received together, in order of arrival, as parallel lists.

    `keys` are 64-bit fingerprints that stay the same when the sender sends a message again; `redelivered`
    holds the indexes of the messages that may be such repetitions (MQTT: the DUP flag), and `known_as` maps those that
    may be known by other keys than their own to these. `oversized` maps the index of a message that was too long
    to its true payload size in bytes; `payloads` has its beginning.
    `formats` maps the index of a message that says what it is to the formats it may be in, the usual one first.
    """

    received_at_ms: int
    topics: list[str] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    redelivered: set[int] = field(default_factory=set)
    oversized: dict[int, int] = field(default_factory=dict)
    formats: dict[int, tuple[str, ...]] = field(default_factory=dict)
    known_as: dict[int, list[int]] = field(default_factory=dict)


Deliver = Callable[[Delivery[Chunk]], Awaitable[None]]
"""How a collector hands over: awaiting it is the backpressure; its return acknowledges nothing."""

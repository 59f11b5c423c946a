"""Block-wise request bodies (RFC 7959, Block1): a body that comes in several datagrams is put together here.

A block is taken when it continues its transfer exactly; block 0 begins the transfer anew. Pure.

Limits: a body has at most body_bytes_max bytes, at most TRANSFERS_MAX bodies are open at a time, the one that
waits longest makes room for a new one, and one that has waited TRANSFER_IDLE_S_MAX is forgotten. Its
device is told 4.08 and begins anew.
"""

from collections.abc import Hashable
from dataclasses import dataclass, field
from enum import Enum, auto

TRANSFERS_MAX = 64
TRANSFER_IDLE_S_MAX = 93.0
"""MAX_TRANSMIT_WAIT of RFC 7252 4.8.2: a client that is alive has been heard of by then."""


class Step(Enum):
    """What became of a block that did not complete a body."""

    CONTINUE = auto()
    INCOMPLETE = auto()
    TOO_LARGE = auto()
    MALFORMED = auto()


@dataclass(slots=True)
class _Transfer:
    touched_s: float
    body: bytearray = field(default_factory=bytearray)


class Blocks:
    """The open transfers. A key stands for one request of one endpoint, whichever its block."""

    def __init__(self, body_bytes_max: int) -> None:
        self._body_bytes_max = body_bytes_max
        self._transfers: dict[Hashable, _Transfer] = {}

    def __len__(self) -> int:
        return len(self._transfers)

    def take(self, key: Hashable, number: int, size: int, data: bytes, now_s: float, *, more: bool) -> bytes | Step:
        """The whole body once `data`, block `number` of blocks of `size` bytes, is its last."""
        if (more and len(data) != size) or len(data) > size:
            return Step.MALFORMED
        transfer = self._transfers.pop(key, None)  # put back at the end: the order is that of the last use
        if number == 0:
            transfer = _Transfer(now_s)
        if transfer is None or number * size != len(transfer.body):
            return Step.INCOMPLETE
        if len(transfer.body) + len(data) > self._body_bytes_max:
            return Step.TOO_LARGE
        transfer.body += data
        if not more:
            return bytes(transfer.body)
        transfer.touched_s = now_s
        self._make_room(now_s)
        self._transfers[key] = transfer
        return Step.CONTINUE

    def _make_room(self, now_s: float) -> None:
        while self._transfers:
            oldest = next(iter(self._transfers))
            idle_s = now_s - self._transfers[oldest].touched_s
            if len(self._transfers) < TRANSFERS_MAX and idle_s <= TRANSFER_IDLE_S_MAX:
                return
            del self._transfers[oldest]

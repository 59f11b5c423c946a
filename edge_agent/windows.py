"""Tumbling windows: what is said of a series' readings in place of them, or beside them. Pure.

A window has the readings of one series that were measured from `start_ms` on, for `length_ms`; starts are multiples of
the length since 1970 UTC. A series has one window at most. It is closed by a reading of a later window, or when no
reading has come into it for its length and SILENCE_MS more, by the gateway's clock.
Closed, it gives a reading for each aggregate, measured at `start_ms`.

A reading that is too late for its window has no place in another: the caller keeps it as it is.

`packed` is for the spool, in the transaction that commits the window's readings (edge_agent.spool): so what was
acknowledged is in the window after a crash, once. It has all that it takes to close it, if the rule is gone meanwhile.
"""

from collections.abc import Callable
from dataclasses import astuple, dataclass
from math import inf, sqrt

import msgspec

SILENCE_MS = 10_000


@dataclass(slots=True)
class Window:
    """An open window, or, with a count of 0, one that was closed: `start_ms` is then where the next may begin.

    series: of each aggregate its id. touched_at_ms: when its last reading came. squares: the sum of the squared
    differences from the mean (by Welford's way, which loses no digits to large values). last_at_ms: when `last` was
    measured. quality: of the readings, or-ed.
    """

    length_ms: int
    series: dict[str, int]
    start_ms: int
    touched_at_ms: int
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    min: float = inf
    max: float = -inf
    last: float = 0.0
    last_at_ms: int = 0
    quality: int = 0

    def add(self, value: float, at_ms: int, quality: int, received_at_ms: int) -> None:
        """Take a finite value that was measured within the window."""
        self.count += 1
        away = value - self.mean
        self.mean += away / self.count
        self.squares += away * (value - self.mean)
        self.min = min(self.min, value)
        self.max = max(self.max, value)
        if self.count == 1 or at_ms >= self.last_at_ms:
            self.last, self.last_at_ms = value, at_ms
        self.quality |= quality
        self.touched_at_ms = received_at_ms

    def is_silent(self, now_ms: int) -> bool:
        """Whether it need not wait for more; also after the clock was set back that far."""
        return self.count > 0 and abs(now_ms - self.touched_at_ms) >= self.length_ms + SILENCE_MS

    def aggregates(self) -> dict[int, float]:
        """What it says: series -> value."""
        return {id_: AGGREGATES[name](self) for name, id_ in self.series.items()}

    def packed(self) -> bytes:
        """For the spool; `unpacked` reads it."""
        return msgspec.msgpack.encode(astuple(self))


AGGREGATES: dict[str, Callable[[Window], float]] = {
    "count": lambda window: window.count,
    "min": lambda window: window.min,
    "max": lambda window: window.max,
    "mean": lambda window: window.mean,
    "last": lambda window: window.last,
    "stddev": lambda window: sqrt(max(0.0, window.squares) / window.count),
}
"""stddev is the population's: of a single reading it is 0."""


def unpacked(packed: bytes) -> Window:
    """What `Window.packed` made."""
    return Window(*msgspec.msgpack.decode(packed, type=_Packed))


_Packed = tuple[int, dict[str, int], int, int, int, float, float, float, float, float, int, int]

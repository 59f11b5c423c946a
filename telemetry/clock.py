"""Time as a value that is passed in, so that tests and the simulation own it."""

import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for stamps, monotonic time for durations."""

    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC; may step back and forth."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since an arbitrary point; never steps back."""
        ...


class SystemClock:
    """The operating system's clocks."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        return time.monotonic()

"""When records arrived at a gateway that did not know the time: a Raspberry Pi without a clock wakes up in 1970.

What it takes before its clock is set is spooled undated: each chunk with the boot and with what the wall clock showed
when the monotonic clock was 0 (Uptime, in edge_agent.chunk). The monotonic clock runs through when the wall clock is
set, so from then on it is known when the boot began, and with that when each of its records arrived.

A boot whose clock was never set is dated by what came after: its last record arrived before the next boot began, or
before the next record that has a date. It is put right there, the others before it at their true distances, and the
quality of what rests on it has TIME_ESTIMATED.

An undated chunk is not sent. It is dated in the spool, durably, and only then sent: so a seq has the same values
whenever it is sent. When a boot began is written once, at the latest with the first chunk that it dates.

A gateway that is never told the time need not wait for it (`wait_for_clock = false`): then its clock's word counts.
"""

import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from edge_agent.chunk import Uptime
from edge_agent.plausibility import CLOCK_SET_MS_MIN
from telemetry.clock import Clock
from telemetry.columns import DEAD, TIME_ESTIMATED, TIME_FROM_GATEWAY, Columns

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Began(NamedTuple):
    """When a boot began, in ms since 1970 UTC; an estimate is the latest that it can be."""

    at_ms: int
    is_estimate: bool


class Boot:
    """The present boot. waits: for the time. id: 16 bytes, the kernel's; where there is none, of this process."""

    def __init__(self, clock: Clock, *, waits: bool = True, id_: bytes | None = None) -> None:
        self.id = id_ or kernel_boot_id() or secrets.token_bytes(16)
        self.waits = waits
        self._clock = clock
        self._wrong_ms: int | None = None
        self.began()

    def began(self) -> int | None:
        """When it began, in ms since 1970 UTC; None while the clock is not set."""
        wall_ms = self._clock.now_ms()
        zero_ms = wall_ms - round(self._clock.monotonic_s() * 1000)
        if wall_ms >= CLOCK_SET_MS_MIN:
            return zero_ms
        self._wrong_ms = zero_ms
        return None

    def uptime(self, earliest_ms: int) -> Uptime | None:
        """What dates records of which the earliest arrived then; None for those that have a date."""
        self.began()
        if earliest_ms >= CLOCK_SET_MS_MIN or self._wrong_ms is None or not self.waits:
            return None
        return Uptime(self.id, self._wrong_ms)


def kernel_boot_id() -> bytes | None:
    """16 bytes; None where the kernel has none."""
    try:
        return bytes.fromhex(BOOT_ID.read_text().strip().replace("-", ""))
    except (OSError, ValueError):
        return None


class Run(NamedTuple):
    """Undated chunks of one boot that follow each other; when the last of their records arrived, by the wrong clock."""

    uptime: Uptime
    last_ms: int


def beginnings(runs: Sequence[Run], end_ms: int, known: dict[bytes, Began]) -> dict[bytes, Began]:
    """When the boots of runs began, in the runs' order. end_ms: the last of them had ended by then."""
    found: dict[bytes, Began] = {}
    for run in reversed(runs):
        boot = run.uptime.boot
        began = known.get(boot) or found.get(boot)
        if began is None:
            began = Began(end_ms - (run.last_ms - run.uptime.zero_ms), is_estimate=True)
        found[boot] = began
        end_ms = began.at_ms
    return found


def last_arrival_ms(columns: Columns) -> int:
    """Of the records without a date, by the wrong clock."""
    return max(at for at in columns.received_at if at < CLOCK_SET_MS_MIN)


def date(columns: Columns, uptime: Uptime, began: Began) -> None:
    """Give undated records their times, in place."""
    shift_ms = began.at_ms - uptime.zero_ms
    for place, at in enumerate(columns.received_at):
        if at >= CLOCK_SET_MS_MIN:
            continue
        columns.received_at[place] = at + shift_ms
        is_letter = columns.series[place] == DEAD
        if is_letter or columns.quality[place] & TIME_FROM_GATEWAY:
            columns.measured_at[place] += shift_ms
            if began.is_estimate and not is_letter:
                columns.quality[place] |= TIME_ESTIMATED

"""Which times of devices are believed: those near the arrival of their message, by the gateway's clock.

A device whose clock was never set counts from 1970 or 2000, one whose battery is empty wakes up years ago, one that
was set wrongly is years ahead. Its values are good all the same. So the arrival becomes measured_at, and the quality
says that the device said something else: a time that is wrong by years would hide a reading from everybody.

- Before 2000 nothing is believed, whatever the limits and the gateway's clock say.
- A gateway whose own clock is before CLOCK_SET_MS_MIN cannot judge: it believes the rest.
- Times that count from the arrival are held to the limits, too, but by a gateway only whose clock was set.
- What is no time at all, or lies outside 1970-2099, the formats refuse (edge_agent.formats.times).
"""

from typing import NamedTuple

from edge_agent.config import Time
from edge_agent.readings import Readings
from telemetry.columns import TIME_CORRECTED, TIME_FROM_GATEWAY, TIME_NOT_BELIEVED

DEVICE_MS_MIN = 946_684_800_000  # 2000-01-01
CLOCK_SET_MS_MIN = 1_577_836_800_000  # 2020-01-01, before there was any of this
NEVER_MS = 2**62

_DAY_MS = 86_400_000


class Span(NamedTuple):
    """From low_ms to high_ms, both included, in ms since 1970 UTC."""

    low_ms: int
    high_ms: int


def believed(received_at_ms: int, limits: Time) -> Span:
    """The times that a message may state which arrived then."""
    if received_at_ms < CLOCK_SET_MS_MIN:
        return Span(DEVICE_MS_MIN, NEVER_MS)
    behind_ms = round(limits.device_behind_days_max * _DAY_MS)
    return Span(
        max(DEVICE_MS_MIN, received_at_ms - behind_ms), received_at_ms + round(limits.device_ahead_s_max * 1000)
    )


def judge(readings: Readings, received_at_ms: int, limits: Time) -> None:
    """Of readings that arrived then, replace the times that are not believed."""
    times = readings.measured_at
    low, high = believed(received_at_ms, limits)
    if not times or (low <= min(times) and max(times) <= high):
        return  # of the whole chunk, as nearly always
    cannot_judge = TIME_FROM_GATEWAY if received_at_ms < CLOCK_SET_MS_MIN else 0
    for place, at in enumerate(times):
        if not low <= at <= high and not readings.quality[place] & cannot_judge:
            times[place] = received_at_ms
            readings.quality[place] = readings.quality[place] & ~TIME_CORRECTED | TIME_FROM_GATEWAY | TIME_NOT_BELIEVED
            readings.offsets.pop(place, None)

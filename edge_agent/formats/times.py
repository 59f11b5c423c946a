"""When a device measured, in milliseconds since 1970 UTC, from the numbers and texts that devices send.

Whole milliseconds are an int. A time with microseconds is a float, which has them exactly as far as 2100 (`fine`).

A number without a stated unit is seconds below SECONDS_BELOW and milliseconds from there on: that is the year 5138 in
seconds, 1973 in milliseconds. A text is ISO 8601 with its zone (as in RFC 3339); without one only if the mapping says
which it is. Then a time that comes twice when summer time ends is the first of the two, and one that is left out when
it begins is read with the zone's former offset.

A second 60 is that of a leap second, and is read as the one after it, as Unix counts; it is none anywhere but at the
end of a day of UTC.

What lies outside of 1970-2099 is no time. Whether one is believed is for `edge_agent.plausibility`: a clock that was
never set counts from 1970, 1980 or 2000.
"""

import re
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Literal

from edge_agent.config import TimeUnit

SECONDS_BELOW = 1e11
HALF_US = 0.0005  # in ms
AT_MS_MIN = 0  # 1970-01-01
AT_MS_MAX = 4_102_444_800_000  # 2100-01-01, itself excluded

_PER_S: dict[TimeUnit, int] = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
_COUNT_MAX = 2**64
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)
_DAY_US = 86_400_000_000
_LEAP = re.compile(r"(?<=[T ]\d\d:\d\d):60(?!\d)")


def milliseconds(
    ts: object, name: str = "ts", unit: Literal["auto"] | TimeUnit = "auto", zone: tzinfo | None = None
) -> float | str:
    """A number of `unit` or a text, which may be of `zone`, in ms since 1970 UTC; or the reason why it is no time.

    "auto": its size says whether a number is seconds or milliseconds.
    """
    if isinstance(ts, str):
        return from_iso(ts, name, zone)
    if isinstance(ts, bool) or not isinstance(ts, int | float):
        return f"{name} must be a number or an ISO 8601 text, got {_shown(ts)}"
    if unit != "auto":
        return from_epoch(ts, unit, name)
    at: float = -1
    if -AT_MS_MAX < ts < AT_MS_MAX:  # so neither NaN nor infinite
        at = from_ms(ts * 1000 if -SECONDS_BELOW < ts < SECONDS_BELOW else ts)
    if not AT_MS_MIN <= at < AT_MS_MAX:
        return f"{name} must be seconds or milliseconds since 1970 that lie in 1970-2099, got {_shown(ts)}"
    return at


def fine(at_us: int) -> float:
    """Microseconds as milliseconds: an int if they are whole, else a float, precise to a quarter of a microsecond."""
    at_ms, us = divmod(at_us, 1000)
    return at_us / 1000 if us else at_ms


def from_ms(count: float) -> float:
    """Milliseconds that may have a fraction. What is within half a microsecond of a whole one is that."""
    whole = round(count)
    return whole if abs(count - whole) < HALF_US else fine(round(count * 1000))


def from_epoch(count: float, unit: TimeUnit, name: str = "a time") -> float | str:
    """A number of units since 1970, or the reason why it is no time."""
    at_us = count * 1_000_000 / _PER_S[unit] if -_COUNT_MAX < count < _COUNT_MAX else -1
    if not AT_MS_MIN <= at_us <= (AT_MS_MAX - 1) * 1000:  # so is NaN
        return f"{name} must be {unit} since 1970 that lie in 1970-2099, got {_shown(count)}"
    return fine(round(at_us))


def from_iso(text: str, name: str = "a time", zone: tzinfo | None = None) -> float | str:
    """ISO 8601 with a zone, or of `zone`; or the reason why it is none."""
    try:
        moment = datetime.fromisoformat(_LEAP.sub(":59", text))
        if zone is not None and moment.tzinfo is None:
            moment = moment.replace(tzinfo=zone)
        at_us = (moment - _EPOCH) // _US
        if _LEAP.search(text):
            at_us = _a_second_later(at_us)
    except (ValueError, TypeError, OverflowError):  # no date; one without a zone; too far away
        example = "with a zone, such as 2026-01-31T12:00:00Z" if zone is None else "such as 2026-01-31T12:00:00"
        return f"{name} must be ISO 8601 {example}, got {text[:60]!r}"
    if not AT_MS_MIN <= at_us <= (AT_MS_MAX - 1) * 1000:
        return f"{name} must lie in 1970-2099, got {text[:60]!r}"
    return fine(at_us)


def _a_second_later(at_us: int) -> int:
    """Behind the last second of a day of UTC. Raises ValueError for another: no leap second follows it."""
    if at_us % _DAY_US < _DAY_US - 1_000_000:
        raise ValueError
    return at_us + 1_000_000


def _shown(ts: object) -> str:
    if isinstance(ts, bool):
        return str(ts).lower()
    if isinstance(ts, float):
        return f"{ts:.17g}"
    if isinstance(ts, int):
        return str(ts) if abs(ts) < _COUNT_MAX else "an integer of more than 64 bits"
    return "an array" if isinstance(ts, list) else "an object" if isinstance(ts, dict) else "bytes"

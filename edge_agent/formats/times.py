"""When a device measured, in whole milliseconds since 1970 UTC, from the numbers and texts that devices send.

A number without a stated unit is seconds below SECONDS_BELOW and milliseconds from there on: that is the year 5138 in
seconds, 1973 in milliseconds. A text is RFC 3339; it has its zone, unless the mapping states one for those that do
not. Then a time that the end of summer time makes ambiguous is the earlier one, and one that its beginning leaves out
is read with the zone's former offset.

What lies outside of 2000-2099 is no time: a clock that was never set counts from 1970.
"""

from datetime import UTC, datetime, tzinfo
from typing import Annotated

import msgspec

SECONDS_BELOW = 1e11
AT_MS_MIN = 946_684_800_000  # 2000-01-01
AT_MS_MAX = 4_102_444_800_000  # 2100-01-01, itself excluded

UNITS_PER_MS = {"s": 0.001, "ms": 1, "us": 1000, "ns": 1_000_000}

_Zoned = Annotated[datetime, msgspec.Meta(tz=True)]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def milliseconds(ts: object, name: str = "ts") -> int | str:
    """A time in ms since 1970 UTC, or the reason why it is none."""
    if isinstance(ts, float) and AT_MS_MIN <= ts < AT_MS_MAX - 1:  # the common case first
        return round(ts)
    if isinstance(ts, str):
        return _of_text(ts, name, None)
    if isinstance(ts, bool) or not isinstance(ts, int | float):
        return f"{name} must be a number or an RFC 3339 string, got {_shown(ts)}"
    at = 0
    if -AT_MS_MAX < ts < AT_MS_MAX:  # what no number is, is not either
        at = round(ts * 1000) if -SECONDS_BELOW < ts < SECONDS_BELOW else round(ts)
    if not AT_MS_MIN <= at < AT_MS_MAX:
        return f"{name} must be seconds or milliseconds since 1970 that lie in 2000-2099, got {_shown(ts)}"
    return at


def milliseconds_in(ts: object, name: str, unit: str, zone: tzinfo | None) -> int | str:
    """As `milliseconds`, of a number in a unit of UNITS_PER_MS or "auto", or a text that may be of `zone`."""
    if isinstance(ts, str):
        return _of_text(ts, name, zone)
    if unit == "auto" or isinstance(ts, bool) or not isinstance(ts, int | float):
        return milliseconds(ts, name)
    per_ms = UNITS_PER_MS[unit]
    at = round(ts / per_ms) if 0 < ts < AT_MS_MAX * per_ms else 0
    if not AT_MS_MIN <= at < AT_MS_MAX:
        return f"{name} must be {unit} since 1970 that lie in 2000-2099, got {_shown(ts)}"
    return at


def _of_text(ts: str, name: str, zone: tzinfo | None) -> int | str:
    try:
        if zone is None:
            moment = msgspec.convert(ts, _Zoned)
        else:
            moment = msgspec.convert(ts, datetime)
            if moment.tzinfo is None:
                moment = moment.replace(tzinfo=zone)
        since = moment - _EPOCH
    except (msgspec.ValidationError, OverflowError):
        if zone is None:
            return f"{name} must be RFC 3339 with a zone, such as 2026-01-31T12:00:00Z, got {ts[:60]!r}"
        return f"{name} must be RFC 3339, such as 2026-01-31T12:00:00, got {ts[:60]!r}"
    at = (since.days * 86_400 + since.seconds) * 1000 + round(since.microseconds / 1000)
    if not AT_MS_MIN <= at < AT_MS_MAX:
        return f"{name} must be seconds or milliseconds since 1970 that lie in 2000-2099, got {ts[:60]!r}"
    return at


def _shown(ts: object) -> str:
    if isinstance(ts, bool):
        return str(ts).lower()
    if isinstance(ts, int | float):
        return f"{ts:.17g}" if -1e300 < ts < 1e300 or isinstance(ts, float) else "a huge number"
    return "a list" if isinstance(ts, list) else "an object" if isinstance(ts, dict) else type(ts).__name__

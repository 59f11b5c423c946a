"""Times in payloads as ms since 1970 UTC, rounded. They must lie in 2000-2099, or something is wrong with them."""

from datetime import UTC, datetime, timedelta

from edge_agent.config import TimeUnit
from edge_agent.formats.json import AT_MS_MAX, AT_MS_MIN

_PER_S: dict[TimeUnit, int] = {"s": 1, "ms": 1000, "us": 1_000_000, "ns": 1_000_000_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)


def from_epoch(count: float, unit: TimeUnit) -> int | str:
    """A number of units since 1970, or the reason why it is no time; a whole number has 64 bits at most."""
    at = count * 1000 / _PER_S[unit]
    if not AT_MS_MIN <= at <= AT_MS_MAX - 1:  # so is NaN
        return f"a time must be {unit} since 1970 that lie in 2000-2099, got {count}"
    return round(at)


def from_iso(text: str) -> int | str:
    """ISO 8601 with a zone, or the reason why it is none."""
    try:
        at = (datetime.fromisoformat(text) - _EPOCH) / _MS
    except (ValueError, TypeError, OverflowError):  # no date; one without a zone; too far away
        return f"a time must be ISO 8601 with a zone, such as 2026-01-31T12:00:00Z, got {text[:60]!r}"
    if not AT_MS_MIN <= at <= AT_MS_MAX - 1:
        return f"a time must lie in 2000-2099, got {text[:60]!r}"
    return round(at)

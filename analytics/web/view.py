"""What the explorer has in sight, and its address, which restores it. Pure.

Which table the points come from follows from the span alone (`source`): a plot has at most `POINTS` of them per series,
and takes the coarsest table that still has so many.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Protocol
from urllib.parse import quote, urlencode
from zoneinfo import ZoneInfo, available_timezones

from analytics.web import charts, frame

POINTS = 400
NAMES_MAX = 50
SPANS = {
    "5 min": 300,
    "1 h": 3600,
    "6 h": 21600,
    "1 d": 86400,
    "7 d": 604800,
    "30 d": 2592000,
    "1 y": 31536000,
    "10 y": 315360000,
}
SPAN_MS_MIN, SPAN_MS_MAX = 1000, 50 * 366 * 86_400_000
END_MS_MAX = 4_102_444_800_000  # the year 2100, as far as readings go
AGAINST = {0: "nothing", 86_400: "the day before", 604_800: "the week before", 2_419_200: "four weeks before"}
"""What a series may be compared with: itself, so many seconds ago."""
BROWSER = "browser"
"""Stands for the time zone of who looks."""


class Parameters(Protocol):
    """A query string."""

    def get(self, name: str, default: str, /) -> str: ...
    def getlist(self, name: str, /) -> list[str]: ...


@cache
def zones() -> list[str]:
    """The names of all time zones."""
    return sorted(available_timezones())


class View:
    """What is in sight; moments in milliseconds since 1970."""

    def __init__(self, parameters: Parameters) -> None:
        self.devices = names(parameters.getlist("device"))
        self.metrics = names(parameters.getlist("metric"))
        zone = parameters.get("zone", "UTC")
        self.zone = zone if zone == BROWSER or zone in zones() else "UTC"
        self.browser_zone = ""
        self.span_ms = min(max(_integer(parameters.get("span_ms", ""), 86_400_000), SPAN_MS_MIN), SPAN_MS_MAX)
        against = _integer(parameters.get("against", ""), 0)
        self.against_s = against if against in AGAINST else 0
        self.end_ms = min(max(_integer(parameters.get("end_ms", ""), 0), 0), END_MS_MAX)
        self.follows = not self.end_ms

    @property
    def begin_ms(self) -> int:
        return self.end_ms - self.span_ms

    @property
    def extent(self) -> tuple[int, int]:
        """What is asked for: a span more on each side."""
        return self.begin_ms - self.span_ms, self.end_ms + self.span_ms

    @property
    def clock(self) -> ZoneInfo:
        """The time zone; that of the browser is UTC until it is known."""
        name = self.browser_zone if self.zone == BROWSER else self.zone
        return ZoneInfo(name if name in zones() else "UTC")

    @property
    def step_ms(self) -> int:
        """The length of a point."""
        return charts.step_ms(self.span_ms, POINTS)

    @property
    def source(self) -> str:
        """Where points come from: raw readings, rollup_1m or rollup_1h."""
        return "raw" if self.step_ms < 60_000 else "rollup_1m" if self.step_ms < 3_600_000 else "rollup_1h"

    @property
    def link(self) -> str:
        """The page's address."""
        more: dict[str, str | int] = {"zone": self.zone, "span_ms": self.span_ms}
        more |= {"against": self.against_s} if self.against_s else {}
        more |= {} if self.follows else {"end_ms": self.end_ms}
        return address(self.devices, self.metrics, more)

    def move(self, begin_ms: int, end_ms: int) -> None:
        """Look there, and follow no more."""
        self.span_ms = min(max(end_ms - begin_ms, SPAN_MS_MIN), SPAN_MS_MAX)
        self.end_ms, self.follows = min(max(end_ms, 1), END_MS_MAX), False

    def caption(self, known: int, shown: int, *, thinned: bool) -> str:
        """What the plot shows, of so many series."""
        begin, end = (frame.when(datetime.fromtimestamp(at / 1000, self.clock)) for at in (self.begin_ms, self.end_ms))
        said = f"{begin} to {end} {self.clock.key}; "
        if self.source == "raw":
            said += "readings, thinned so that each line keeps its shape" if thinned else "every reading"
        else:
            said += f"a point every {_length(self.step_ms)}, from {self.source}"
            said += "; bands are least to greatest" if known <= charts.BANDS_MAX else ""
        said += f"; dashed: {AGAINST[self.against_s]}" if self.against_s else ""
        return said + (f"; the first {shown} of {known} series" if known > shown else "") + "."


def address(devices: Iterable[str], metrics: Iterable[str], more: Mapping[str, str | int] | None = None) -> str:
    """The explorer with these chosen. A name may have any character."""
    chosen = [*(("device", name) for name in devices), *(("metric", name) for name in metrics)]
    return "/explorer?" + urlencode([*chosen, *(more or {}).items()], safe="/", quote_via=quote)


def names(given: Sequence[str]) -> list[str]:
    """Of devices or metrics, without empty ones."""
    return [name for name in given if name][:NAMES_MAX]


def _integer(text: str, default: int) -> int:
    try:
        return int(text or default)
    except ValueError:
        return default


def _length(ms: int) -> str:
    for size_ms, unit in ((86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1000, "s")):
        if ms >= size_ms:
            return f"{ms / size_ms:g} {unit}"
    return f"{ms} ms"

"""Edge processing: what the config's [[process]] rules make of readings between decoding and the spool. Pure.

A series belongs to the first rule whose patterns fit its device and metric, or to none: then nothing touches it. A
rule does, in this order:

  scale, offset, unit       the value becomes value * scale + offset, in `unit` if the rule has one
  value_min, value_max      a value beyond them gets VALUE_BAD; nothing is dropped for it
  interval_s_min            a reading so soon after the newest one kept is left out
  deadband, ..._percent     a reading that differs from the newest one kept by at most this, or by at most this share of
                            it, is left out, if its quality is the same and that one is no older than heartbeat_s
  window_s                  the reading goes into its series' window (edge_agent.windows). Its aggregates are series of
                            their own, METRIC.mean; without keep_raw the reading itself is left out. Bad and stale
                            values, texts and what comes too late for its window are kept as they are instead.

Times are measured_at. A reading is compared with the newest one that was kept; one that was measured before that is
kept itself and changes nothing: what else was kept at its time is not known any more, so no backlog that comes after
live readings is thinned out. Texts are kept as they are and not compared with anything. So is what is dated by its
arrival at a gateway whose clock says a year before 2020: nobody knows yet when that was.

What the other rules remember of a series is in memory only: after a start its first reading is kept. What is left
out is counted by the caller, in the transaction in which its message is committed (edge_agent.spool).

Limits: a state of three numbers and a window for each series with a rule, of which there are at most
collect.series_max.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from math import inf, isfinite
from types import MappingProxyType
from typing import NamedTuple

from edge_agent.config import Process
from edge_agent.plausibility import CLOCK_SET_MS_MIN
from edge_agent.readings import DROPPED, NAME_CHARS_MAX, Readings
from edge_agent.windows import Window, unpacked
from telemetry.columns import TIME_FROM_GATEWAY, VALUE_BAD, VALUE_STALE, Series
from telemetry.errors import FieldlineError

LOOK_EVERY_MS = 1000
NO_WINDOWS: Mapping[int, bytes] = MappingProxyType({})
SeriesId = Callable[[Series], int]


class Rule:
    """A [[process]] section, prepared. The times in ms; deadband None: there is none."""

    def __init__(self, section: Process) -> None:
        self._device, self._metric = (re.compile(translate(p)) for p in (section.device, section.metric))
        self.unit = section.unit
        self.scale, self.offset = section.scale, section.offset
        self.value_min = -inf if section.value_min is None else section.value_min
        self.value_max = inf if section.value_max is None else section.value_max
        self.interval_ms = (section.interval_s_min or 0) * 1000
        self.deadband = (section.deadband or 0.0) if section.has_deadband else None
        self.share = (section.deadband_percent or 0.0) / 100
        self.heartbeat_ms = section.heartbeat_s * 1000
        self.window_ms = round((section.window_s or 0) * 1000)
        self.aggregates, self.keep_raw = dict.fromkeys(section.aggregates), section.keep_raw
        self.thins = section.has_deadband or section.interval_s_min is not None

    def fits(self, series: Series) -> bool:
        """Whether a series is meant."""
        return bool(self._metric.match(series.metric) and self._device.match(series.device))


class Kept(NamedTuple):
    """The newest reading that was kept of a series."""

    measured_at_ms: int
    value: float
    quality: int


class Processing:
    """The rules, and what they remember. `series_id` as `edge_agent.decode` has it.

    windows: what `take_windows` gave before: of series ids, the windows as they are in the spool.
    """

    def __init__(
        self, sections: Sequence[Process], series_id: SeriesId, windows: Mapping[int, bytes] = NO_WINDOWS
    ) -> None:
        self._rules = [Rule(section) for section in sections]
        self._series_id = series_id
        self._ruled: dict[int, Rule] = {}
        self._units: dict[int, str] = {}  # in which the readings of a series came
        self._said: dict[int, str] = {}  # the same of series that are aggregates
        self._aggregates: dict[int, dict[str, int]] = {}
        self._kept: dict[int, Kept] = {}
        self._windows = {id_: unpacked(packed) for id_, packed in windows.items()}
        self._touched: set[int] = set()
        self._looked_at_ms = 0
        self.thinned = 0
        """How many readings were left out since it was made."""

    def series_id(self, series: Series) -> int:
        """The id of a series as it is after its rule. Raises FieldlineError."""
        rule = next((rule for rule in self._rules if rule.fits(series)), None)
        unit = series.unit if rule is None or rule.unit is None else rule.unit
        id_ = self._claimed(series._replace(unit=unit), series.unit, self._units, self._said)
        if rule is not None and id_ not in self._ruled:
            if rule.window_ms:
                self._aggregates[id_] = {name: self._aggregate(series, name, unit) for name in rule.aggregates}
            self._ruled[id_] = rule
        return id_

    def _aggregate(self, series: Series, name: str, unit: str) -> int:
        metric = f"{series.metric}.{name}"
        if len(metric) > NAME_CHARS_MAX:
            raise FieldlineError(f"the aggregate's name {metric[:60]!r} is longer than {NAME_CHARS_MAX} characters")
        made = series._replace(metric=metric, unit="" if name == "count" else unit)
        return self._claimed(made, series.unit, self._said, self._units)

    def _claimed(self, series: Series, unit: str, mine: dict[int, str], others: dict[int, str]) -> int:
        """The id of a series that stands for one thing, which came in `unit`."""
        id_ = self._series_id(series)
        if id_ in others or mine.setdefault(id_, unit) != unit:
            raise FieldlineError(
                f"two things would be the series {series.metric!r} in {series.unit!r}: [[process]] gives one unit to a "
                "metric that comes in two, or an aggregate the name of a metric"
            )
        return id_

    def apply(self, readings: Readings, received_at_ms: int) -> None:
        """Change some readings, in place, take out those that are not kept, and add what closed windows say."""
        closed: list[Window] = []
        if self._windows:
            self._close_silent(received_at_ms, closed)
        if not self._ruled.keys().isdisjoint(readings.series):
            self._apply(readings, received_at_ms, closed)
        for window in closed:
            said = window.aggregates()
            readings.add(tuple(said), tuple(said.values()), window.start_ms, window.quality)

    def _apply(self, readings: Readings, received_at_ms: int, closed: list[Window]) -> None:
        ruled, texts = self._ruled, readings.texts
        series, values, qualities, times = readings.series, readings.value, readings.quality, readings.measured_at
        dropped = 0
        for position, id_ in enumerate(series):
            rule = ruled.get(id_)
            if rule is None or position in texts:
                continue
            value = values[position] = values[position] * rule.scale + rule.offset
            if value < rule.value_min or value > rule.value_max:
                qualities[position] |= VALUE_BAD
            at_ms, quality = int(times[position]), qualities[position]
            if quality & TIME_FROM_GATEWAY and at_ms < CLOCK_SET_MS_MIN:
                continue
            is_kept = True
            if rule.window_ms and not quality & (VALUE_BAD | VALUE_STALE) and isfinite(value):
                window = self._window(id_, rule, at_ms, received_at_ms, closed)
                if window is not None:
                    window.add(value, at_ms, quality, received_at_ms)
                    is_kept = rule.keep_raw
            if not is_kept or (rule.thins and not self._keeps(id_, rule, at_ms, value, quality)):
                series[position] = DROPPED
                dropped += 1
        if dropped:
            readings.drop(0)
            self.thinned += dropped

    def _window(self, id_: int, rule: Rule, at_ms: int, received_at_ms: int, closed: list[Window]) -> Window | None:
        """The window of a reading; the one before is closed. None: the reading is too late."""
        window = self._windows.get(id_)
        start_ms = at_ms - at_ms % rule.window_ms
        if window is not None:
            if at_ms < window.start_ms:
                return None
            if window.count:
                if start_ms == window.start_ms and window.length_ms == rule.window_ms:
                    self._touched.add(id_)
                    return window
                if at_ms < window.start_ms + window.length_ms:  # the rule's length is another now
                    return None
                closed.append(window)
        window = Window(rule.window_ms, self._aggregates[id_], start_ms, received_at_ms)
        self._windows[id_] = window
        self._touched.add(id_)
        return window

    def _close_silent(self, now_ms: int, closed: list[Window]) -> None:
        """Close windows that nothing has come into for long."""
        if abs(now_ms - self._looked_at_ms) < LOOK_EVERY_MS:
            return
        self._looked_at_ms = now_ms
        for id_, window in self._windows.items():
            if window.is_silent(now_ms):
                closed.append(window)
                end_ms = window.start_ms + window.length_ms
                # A window from the future must not make all that follows too late.
                begin_ms = end_ms if end_ms <= now_ms else 0
                self._windows[id_] = Window(window.length_ms, window.series, begin_ms, now_ms)
                self._touched.add(id_)

    @property
    def has_windows(self) -> bool:
        """Whether there is a window that may be due."""
        return bool(self._windows)

    def take_windows(self) -> dict[int, bytes]:
        """The windows that have changed since the last call, by series id."""
        changed = {id_: self._windows[id_].packed() for id_ in self._touched}
        self._touched.clear()
        return changed

    def _keeps(self, id_: int, rule: Rule, at_ms: int, value: float, quality: int) -> bool:
        """Whether a reading is worth its bytes; if so, it is the next ones' measure."""
        last = self._kept.get(id_)
        if last is not None:
            age_ms = at_ms - last.measured_at_ms
            if age_ms < 0:
                return True
            if age_ms < rule.interval_ms:
                return False
            if (
                rule.deadband is not None
                and age_ms < rule.heartbeat_ms
                and quality == last.quality
                and abs(value - last.value) <= max(rule.deadband, rule.share * abs(last.value))
            ):
                return False
        self._kept[id_] = Kept(at_ms, value, quality)
        return True

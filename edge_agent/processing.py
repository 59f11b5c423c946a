"""Edge processing: what the config's [[process]] rules make of readings between decoding and the spool. Pure.

A series belongs to the first rule whose patterns fit its device and metric, or to none: then nothing touches it. A
rule does, in this order:

  scale, offset, unit       the value becomes value * scale + offset, in `unit` if the rule has one
  value_min, value_max      a value beyond them gets VALUE_BAD; nothing is dropped for it
  interval_s_min            a reading so soon after the newest one kept is left out
  deadband, ..._percent     a reading that differs from the newest one kept by at most this, or by at most this share of
                            it, is left out, if its quality is the same and that one is no older than heartbeat_s

Times are measured_at. A reading is compared with the newest one that was kept; one that was measured before that is
kept itself and changes nothing: what else was kept at its time is not known any more, so no backlog that comes after
live readings is thinned out. Texts are kept as they are and not compared with anything.

What a rule remembers of a series is in memory only: after a start the first reading of each series is kept. What is
left out is counted by the caller, in the transaction in which its message is committed (edge_agent.spool).

Limits: a state of three numbers for each series with a rule, of which there are at most collect.series_max.
"""

import re
from collections.abc import Callable, Sequence
from fnmatch import translate
from math import inf
from typing import NamedTuple

from edge_agent.config import Process
from edge_agent.readings import DROPPED, Readings
from telemetry.columns import VALUE_BAD, Series
from telemetry.errors import FieldlineError

SeriesId = Callable[[Series], int]


class Rule:
    """A [[process]] section, prepared. The times in ms; deadband None: there is none."""

    __slots__ = (
        "deadband",
        "fits",
        "heartbeat_ms",
        "interval_ms",
        "offset",
        "scale",
        "share",
        "thins",
        "unit",
        "value_max",
        "value_min",
    )

    def __init__(self, section: Process) -> None:
        device, metric = (re.compile(translate(p)).match for p in (section.device, section.metric))
        self.fits = lambda series: bool(metric(series.metric) and device(series.device))
        self.unit = section.unit
        self.scale, self.offset = section.scale, section.offset
        self.value_min = -inf if section.value_min is None else section.value_min
        self.value_max = inf if section.value_max is None else section.value_max
        self.interval_ms = (section.interval_s_min or 0) * 1000
        self.deadband = (section.deadband or 0.0) if section.has_deadband else None
        self.share = (section.deadband_percent or 0.0) / 100
        self.heartbeat_ms = section.heartbeat_s * 1000
        self.thins = section.has_deadband or section.interval_s_min is not None


class Kept(NamedTuple):
    """The newest reading that was kept of a series."""

    measured_at_ms: int
    value: float
    quality: int


class Processing:
    """The rules, and what they remember. `series_id` as `edge_agent.decode` has it."""

    def __init__(self, sections: Sequence[Process], series_id: SeriesId) -> None:
        self._rules = [Rule(section) for section in sections]
        self._series_id = series_id
        self._ruled: dict[int, Rule] = {}
        self._units: dict[int, str] = {}
        self._kept: dict[int, Kept] = {}
        self.thinned = 0
        """How many readings were left out since it was made."""

    def series_id(self, series: Series) -> int:
        """The id of a series as it is after its rule. Raises FieldlineError."""
        rule = next((rule for rule in self._rules if rule.fits(series)), None)
        if rule is None:
            return self._series_id(series)
        unit = series.unit if rule.unit is None else rule.unit
        id_ = self._series_id(series._replace(unit=unit))
        if self._units.setdefault(id_, series.unit) != series.unit:
            raise FieldlineError(
                f"the metric {series.metric!r} came in {self._units[id_]!r} before and now in {series.unit!r}: "
                f"one rule of [[process]] cannot make {unit!r} of both"
            )
        self._ruled[id_] = rule
        return id_

    def apply(self, readings: Readings) -> None:
        """Change some readings, in place, and take out those that are not kept."""
        ruled, texts = self._ruled, readings.texts
        if ruled.keys().isdisjoint(readings.series):
            return
        series, values, qualities, times = readings.series, readings.value, readings.quality, readings.measured_at
        dropped = 0
        for position, id_ in enumerate(series):
            rule = ruled.get(id_)
            if rule is None or position in texts:
                continue
            value = values[position] = values[position] * rule.scale + rule.offset
            if value < rule.value_min or value > rule.value_max:
                qualities[position] |= VALUE_BAD
            if rule.thins and not self._keeps(id_, rule, times[position], value, qualities[position]):
                series[position] = DROPPED
                dropped += 1
        if dropped:
            readings.drop(0)
            self.thinned += dropped

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

"""Derived metrics: readings that [[derived]] sections of the config compute from others of a message. Pure.

A section holds for the devices that fit its pattern. It gives a reading for each time at which a message has all the
metrics that its expression names, as numbers; with that time, and the quality bits of all of them. If one is missing,
or the expression has no value there, there is no reading. Nothing is remembered from message to message, so a message
that is decoded again gives the same readings. Sections are computed in order, and may use what those before them gave.

Values are those that the message states; [[process]] comes after, for derived readings as for all others. A message
that brings the metric itself keeps its own.

Limits: the sections (edge_agent.config), and those of an expression (edge_agent.expression).
"""

import re
from collections.abc import Callable, Sequence
from fnmatch import translate
from functools import reduce
from operator import or_
from typing import NamedTuple

from edge_agent.config import Derived
from edge_agent.expression import Expression, parse
from edge_agent.readings import Readings
from telemetry.columns import Series
from telemetry.errors import FieldlineError

SeriesId = Callable[[Series], int]


class Rule(NamedTuple):
    """A [[derived]] section, prepared."""

    device: re.Pattern[str]
    metric: str
    unit: str
    expression: Expression
    text: str

    @classmethod
    def of(cls, section: Derived) -> "Rule":
        """Of a section that was checked."""
        return cls(
            re.compile(translate(section.device)),
            section.metric,
            section.unit,
            parse(section.expression),
            section.expression,
        )


class Moment(NamedTuple):
    """What a message says of a device at one time: metric -> its number, None for a text, and its quality."""

    device: str
    tags: str
    measured_at_ms: float
    values: dict[str, tuple[float | None, int]]


class Deriving:
    """`series_id` as `edge_agent.decode` has it."""

    def __init__(self, sections: Sequence[Derived], series_id: SeriesId) -> None:
        self._rules = [Rule.of(section) for section in sections]
        self._series_id = series_id
        self._of_device: dict[str, list[Rule]] = {}
        self._looked_at: dict[int, Series] = {}  # by id, those that a rule looks at
        self.notes: list[str] | None = None
        """For people: why there is no reading; None: nobody asks."""

    def series_id(self, series: Series) -> int:
        """The id of a series, remembered if a rule needs it. Raises FieldlineError."""
        id_ = self._series_id(series)
        rules = self._rules_of(series.device)
        if any(series.metric == rule.metric or series.metric in rule.expression.names for rule in rules):
            self._looked_at[id_] = series
        return id_

    def add(self, readings: Readings, start: int) -> str | None:
        """Append what follows from the readings of one message, those from position `start` on.

        Returns the reason, and takes all of them out, if a series cannot be had.
        """
        known = self._looked_at
        if known.keys().isdisjoint(readings.series[start:]):
            return None
        moments: list[Moment] = []
        latest: dict[tuple[str, float], Moment] = {}
        for position in range(start, len(readings.value)):
            found = known.get(readings.series[position])
            if found is None:
                continue
            device, metric, _, tags = found
            at_ms = readings.measured_at[position]
            moment = latest.get((device, at_ms))
            if moment is None or metric in moment.values:  # a metric for the second time: the next line or record
                moment = latest[device, at_ms] = Moment(device, tags, at_ms, {})
                moments.append(moment)
            number = None if position in readings.texts else readings.value[position]
            moment.values[metric] = number, readings.quality[position]
        try:
            for moment in moments:
                self._derive(moment, readings)
        except FieldlineError as error:
            readings.truncate(start)
            return str(error)
        return None

    def _derive(self, moment: Moment, readings: Readings) -> None:
        device, tags, measured_at_ms, there = moment
        for rule in self._rules_of(device):
            names = rule.expression.names
            if rule.metric in there:
                self._note(device, rule, "the message has it itself")
                continue
            numbers = [there.get(name, (None, 0)) for name in names]
            values = [number for number, _ in numbers if number is not None]
            if len(values) < len(names):
                missing = ", ".join(name for name, (number, _) in zip(names, numbers, strict=True) if number is None)
                self._note(device, rule, f"the message has no number for {missing} at that time")
                continue
            value = rule.expression.evaluate(values)
            if value is None:
                self._note(device, rule, f"{rule.text!r} has no value for these numbers")
                continue
            quality = reduce(or_, (bits for _, bits in numbers), 0)
            id_ = self._series_id(Series(device, rule.metric, rule.unit, tags))
            readings.add((id_,), (value,), measured_at_ms, quality)
            there[rule.metric] = value, quality

    def _note(self, device: str, rule: Rule, why: str) -> None:
        if self.notes is not None:
            self.notes.append(f"{rule.metric} of {device} is not derived: {why}")

    def _rules_of(self, device: str) -> list[Rule]:
        rules = self._of_device.get(device)
        if rules is None:
            rules = self._of_device[device] = [rule for rule in self._rules if rule.device.match(device)]
        return rules

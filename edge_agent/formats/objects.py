"""Formats whose messages are objects of named values: `cbor`, `msgpack`, and `json` beyond one flat object.

A format brings the reader that makes a tree of the bytes: dicts, lists, texts, numbers, booleans and None; keys are
texts, none twice, and nothing is nested deeper than DEPTH_MAX. Without options a message is an object of metrics with
an optional `ts`, or an array of them: see `fields`. The mapping's section of the format (`config.Objects`) says more:

- readings: the path of what holds the readings; else it is the message. An array there has one after the other, each
  with its own time. What is looked up by a path in one of them and is not there is looked up in the message.
- fields: name -> path of a value. An object or array there becomes metrics of that name and what is in it, the names
  joined by `join`; the name "" adds nothing. Without fields everything in the reading is taken so.
- ignore: paths of what is left out, with all that is in it. So is what `time` names.
- time, time_unit, time_zone: see `times`.

A path is keys, or places in an array from 0, joined by a point. No path names a key that has a point in it.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any
from zoneinfo import ZoneInfo

from edge_agent.config import Objects
from edge_agent.formats.fields import METRICS_MAX, Sample, add_samples, sample, wrong_count
from edge_agent.formats.times import milliseconds
from edge_agent.readings import NAME_CHARS_MAX, Readings, SeriesIds
from telemetry.columns import TIME_FROM_DEVICE, TIME_FROM_GATEWAY
from telemetry.errors import FieldlineError

Steps = tuple[str, ...]


class ObjectsDecoder:
    """The messages of one topic; `tree` raises FieldlineError for bytes that it refuses."""

    __slots__ = ("_series", "_take", "_tree")

    def __init__(self, tree: Callable[[bytes], object], series: SeriesIds, options: Objects | None) -> None:
        self._tree = tree
        self._series = series
        self._take = flat if options is None else Selection(options)

    def __call__(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        """See `edge_agent.formats`; times in ms since 1970 UTC."""
        try:
            add_samples(self._take(self._tree(payload), received_at_ms), self._series, into)
        except FieldlineError as error:
            return str(error)
        return None


def flat(message: object, received_at_ms: int) -> Iterator[Sample]:
    """Of an object of metrics, or an array of them. Raises FieldlineError, the reason."""
    for fields in _each(message):
        if not isinstance(fields, dict):
            raise FieldlineError("the payload must be an object of metrics, or an array of them")
        ts = fields.pop("ts", None)
        if ts is None:
            yield sample(fields, received_at_ms, TIME_FROM_GATEWAY)
        else:
            yield sample(fields, milliseconds(ts), TIME_FROM_DEVICE)


class Selection:
    """What a mapping's options take from a message."""

    def __init__(self, options: Objects) -> None:
        self._options = options
        self._readings = _steps(options.readings)
        self._time = _steps(options.time)
        self._zone = ZoneInfo(options.time_zone) if options.time_zone else None
        left_out = _tree_of(_steps(path) for path in (options.time, *options.ignore))
        fields = [(name, _steps(path)) for name, path in options.fields.items()] or [("", ())]
        self._fields = [(name, steps, _below(left_out, steps)) for name, steps in fields]

    def __call__(self, message: object, received_at_ms: int) -> Iterator[Sample]:
        """Raises FieldlineError, the reason."""
        readings = _find(message, self._readings)
        if readings is None:
            raise FieldlineError(f"the message has nothing at {self._options.readings[:60]!r}")
        for reading in _each(readings):
            if (taken := self._sample(reading, message, received_at_ms)) is not None:
                yield taken

    def _sample(self, reading: object, message: object, received_at_ms: int) -> Sample | None:
        """None if nothing is left of the reading: the rest is empty, or left out."""
        if not isinstance(reading, dict | list):
            raise FieldlineError("the payload must be an object, or an array of objects or arrays")
        fields: dict[str, Any] = {}
        has_any = False
        for name, steps, left_out in self._fields:
            value = _look_up(steps, reading, message)
            if value is not None:
                has_any = True
                self._flatten(name, value, left_out, fields)
        if not has_any:
            raise FieldlineError("the message has none of the fields that the mapping names")
        if not fields:
            return None
        ts = _look_up(self._time, reading, message)
        if ts is None:
            return sample(fields, received_at_ms, TIME_FROM_GATEWAY)
        options = self._options
        return sample(fields, milliseconds(ts, options.time, options.time_unit, self._zone), TIME_FROM_DEVICE)

    def _flatten(self, name: str, value: object, left_out: dict[str, Any], into: dict[str, Any]) -> None:
        if isinstance(value, dict):
            children: Iterable[tuple[str, object]] = value.items()
        elif isinstance(value, list):
            children = zip(map(str, range(len(value))), value, strict=True)
        else:
            if name in into:
                raise FieldlineError(f"the metric {name[:60]!r} comes twice")
            if len(into) == METRICS_MAX:
                raise FieldlineError(wrong_count(METRICS_MAX + 1))
            into[name] = value
            return
        for key, child in children:
            below = left_out.get(key)
            if below != {}:  # with nothing below it, it is left out itself
                if len(name) + len(key) > NAME_CHARS_MAX:
                    raise FieldlineError(f"the metric's name {f'{name[:30]}…{key[:30]}'!r} is too long")
                self._flatten(f"{name}{self._options.join}{key}" if name else key, child, below or {}, into)


def _each(readings: object) -> list[Any]:
    """An array's elements, or the one that is no array."""
    if not isinstance(readings, list):
        return [readings]
    if not readings:
        raise FieldlineError("the message holds no metric")
    return readings


def _steps(path: str) -> Steps:
    return tuple(path.split(".")) if path else ()


def _find(value: object, steps: Steps) -> object:
    """What a path leads to, None if it leads nowhere."""
    for step in steps:
        if isinstance(value, dict):
            value = value.get(step)
        elif isinstance(value, list) and step.isdecimal() and len(step) < 8 and int(step) < len(value):
            value = value[int(step)]
        else:
            return None
    return value


def _look_up(steps: Steps, reading: object, message: object) -> object:
    found = _find(reading, steps)
    return _find(message, steps) if found is None and reading is not message else found


def _tree_of(paths: Iterable[Steps]) -> dict[str, Any]:
    """Paths as dicts within each other, a whole path ending in an empty one."""
    tree: dict[str, Any] = {}
    for steps in sorted(paths, key=len, reverse=True):  # so that a path clears what lies below it
        node = tree
        for step in steps:
            node = node.setdefault(step, {})
        node.clear()
    return tree


def _below(tree: dict[str, Any], steps: Steps) -> dict[str, Any]:
    for step in steps:
        tree = tree.get(step, {})
    return tree

"""Format `json`: one JSON object (RFC 8259, UTF-8) of metrics, with an optional `ts`.

  {"ts": 1767225600.25, "power": 1830.5, "running": true, "state": "ok", "gust": null}

The rules for values, `ts` and names, and their limits, are those of `fields`. Refused besides: what is no such object,
and a key that comes twice (one of its values would be lost silently). What is more than that takes `objects`.
"""

import json
from collections.abc import Collection, Mapping
from typing import Any

import msgspec

from edge_agent.formats.fields import DEPTH_MAX, TOO_DEEP, Value, apart, sample, too_long
from edge_agent.formats.json_shape import Kinds, Shape, shape_of
from edge_agent.formats.times import AT_MS_MAX, SECONDS_BELOW, milliseconds
from edge_agent.readings import Readings, SeriesIds
from telemetry.columns import TIME_FROM_DEVICE, TIME_FROM_GATEWAY
from telemetry.errors import FieldlineError

_fields = msgspec.json.Decoder(dict[str, Value]).decode
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_NESTED = (dict, list)
_anything = msgspec.json.Decoder().decode


class JsonDecoder:
    """The messages of one topic.

    A device mostly says the same again with other values. Once two messages in a row had the same shape, messages
    are read by a parser of that shape, and as any JSON only if they do not fit.
    """

    __slots__ = ("_ids", "_kinds", "_series", "_shape")

    def __init__(self, series: SeriesIds) -> None:
        self._series = series
        self._kinds: Kinds | None = None
        self._shape: Shape | None = None
        self._ids: tuple[int, ...] = ()

    def __call__(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        """See `edge_agent.formats`; times in ms since 1970 UTC."""
        shape = self._shape
        if shape is None or payload.count(b":") != shape.keys:
            return self._any(payload, received_at_ms, into)
        try:
            message = shape.parse(payload)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return self._any(payload, received_at_ms, into)
        measured_at: float = received_at_ms
        quality = TIME_FROM_GATEWAY
        if shape.has_ts:
            ts = message.ts
            stamp = int(ts) if SECONDS_BELOW <= ts < AT_MS_MAX and ts == int(ts) else milliseconds(ts)
            if isinstance(stamp, str):
                return stamp
            measured_at, quality = stamp, TIME_FROM_DEVICE
        values: Collection[float] = shape.values(message)
        texts: Mapping[int, str] | None = None
        if shape.texts:
            values, texts = apart(values, shape.texts)
            if reason := too_long(shape.metrics, texts):
                return reason
        into.add(self._ids, values, measured_at, quality, texts)
        return None

    def _any(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        """A message of whatever shape."""
        self._shape = None
        try:
            fields = _fields(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _why(payload, error)
        try:
            # Each key has a colon of its own: with as many colons as distinct keys, none came twice.
            if payload.count(b":") != len(fields):
                _refuse_a_key_twice(payload, fields)
            ts = fields.pop("ts", None)
            if ts is None:
                one = sample(fields, received_at_ms, TIME_FROM_GATEWAY)
            else:
                one = sample(fields, milliseconds(ts), TIME_FROM_DEVICE)
            ids = self._series[one.metrics]
        except FieldlineError as error:
            return str(error)
        into.add(ids, one.values, one.measured_at_ms, one.quality, one.texts)
        kinds = tuple(fields), tuple(map(type, fields.values())), type(ts)
        if kinds == self._kinds:
            self._shape, self._ids = shape_of(kinds), ids
        self._kinds = kinds
        return None


def json_tree(payload: bytes) -> object:
    """Any JSON in which no key comes twice and nothing is nested too deep. Raises FieldlineError, the reason."""
    try:
        tree = _anything(payload)
    except RecursionError:
        raise FieldlineError(TOO_DEEP) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FieldlineError(_why(payload, error)) from None
    _refuse_a_key_twice(payload, tree)
    return tree


def _refuse_a_key_twice(payload: bytes, tree: Any) -> None:
    """Raises FieldlineError for the first key that comes twice in its object, and for what is nested too deep."""
    if type(tree) in _NESTED and (payload.count(b":") != _colons(tree, 1) or b"\\" in payload):
        # Valid, or there were no tree; str instead of numbers, for they are not wanted.
        json.loads(payload, object_pairs_hook=_once, parse_int=str, parse_float=str)


def _colons(tree: dict[str, Any] | list[Any], depth: int) -> int:
    """How many colons JSON needs for what was read, if it escapes nothing and repeats no key."""
    if depth > DEPTH_MAX:
        raise FieldlineError(TOO_DEEP)
    colons = 0
    if isinstance(tree, dict):
        colons = len(tree) + "".join(tree).count(":")
    for value in tree.values() if isinstance(tree, dict) else tree:
        if isinstance(value, str):
            colons += value.count(":")
        elif type(value) in _NESTED:
            colons += _colons(value, depth + 1)
    return colons


def _once(pairs: list[tuple[str, object]]) -> None:
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            raise FieldlineError(f"the key {key[:60]!r} comes twice")
        seen.add(key)


def _why(  # noqa: PLR0911 - one return per reason reads best
    payload: bytes, error: msgspec.DecodeError | UnicodeDecodeError
) -> str:
    """The sentence for a payload that is no flat object of numbers, texts, booleans and nulls."""
    if not payload.strip():
        return "the payload is empty"
    if isinstance(error, UnicodeDecodeError):
        return "the payload is not valid UTF-8"
    if not isinstance(error, msgspec.ValidationError):
        return f"the payload is not valid JSON: {error}"
    try:
        fields = _raw_fields(payload)
    except msgspec.ValidationError:
        return f"the payload must be a JSON object: {error}"
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"the payload is not valid JSON of metrics: {error}"
    kinds = {b"[": "an array", b"{": "an object"}
    for key, raw in fields.items():
        value = bytes(raw).lstrip()
        if value[:1] in kinds:
            kind = kinds[value[:1]]
            return f"{key[:60]!r} is {kind}, only a number, text, true, false or null can be a reading"
        if value[:1] in b"-0123456789" and _is_out_of_range(value):
            return f"{key[:60]!r} is out of a float64's range"
    return f"the payload is not valid JSON of metrics: {error}"


def _is_out_of_range(number: bytes) -> bool:
    try:
        msgspec.json.decode(number, type=float)
    except msgspec.ValidationError:
        return True
    return False

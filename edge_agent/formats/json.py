"""Format `json`: one JSON object (RFC 8259, UTF-8) of metrics, with an optional `ts`.

  {"ts": 1767225600.25, "power": 1830.5, "running": true, "state": "ok", "gust": null}

A number is a reading, as a float64 (an integer beyond 2^53 is rounded to it). true and false are 1.0 and
0.0. A string is a text reading. null is no reading.
`ts` says when the device measured: a number of seconds or milliseconds since 1970 UTC (below 1e11 it is
seconds: that is the year 5138 in seconds, 1973 in milliseconds), or an RFC 3339 string with its zone. It is
rounded to the millisecond and must lie in 2000-2099. Without it, or when null, the arrival counts.

Refused, always as a whole: what is no such object, NaN and infinities, a key that comes twice (one of its
values would be lost silently), a message without any metric, an absurd `ts`, a name that is no name.
Limits: METRICS_MAX metrics, TEXT_BYTES_MAX per text; the caller limits the payload.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec

from edge_agent.formats.json_shape import Kinds, Shape, shape_of
from edge_agent.readings import Readings, SeriesIds
from telemetry.columns import NAN, TIME_FROM_DEVICE, TIME_FROM_GATEWAY
from telemetry.errors import FieldlineError

METRICS_MAX = 4096
TEXT_BYTES_MAX = 64 * 1024
SECONDS_BELOW = 1e11
AT_MS_MIN = 946_684_800_000  # 2000-01-01
AT_MS_MAX = 4_102_444_800_000  # 2100-01-01, itself excluded

Value = float | str | bool | None

_fields = msgspec.json.Decoder(dict[str, Value]).decode
_raw_fields = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_Zoned = Annotated[datetime, msgspec.Meta(tz=True)]
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


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
        measured_at, quality = received_at_ms, TIME_FROM_GATEWAY
        if shape.has_ts:
            stamp = _milliseconds(message.ts)
            if isinstance(stamp, str):
                return stamp
            measured_at, quality = stamp, TIME_FROM_DEVICE
        values: Collection[float] = shape.values(message)
        texts: Mapping[int, str] | None = None
        if shape.texts:
            values, texts = _apart(values, shape.texts)
            if reason := _too_long(shape.metrics, texts):
                return reason
        into.add(self._ids, values, measured_at, quality, texts)
        return None

    def _any(  # noqa: PLR0911 - one return per reason reads best
        self, payload: bytes, received_at_ms: int, into: Readings
    ) -> str | None:
        """A message of whatever shape."""
        self._shape = None
        try:
            fields = _fields(payload)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            return _why(payload, error)
        # Each key has a colon of its own: with as many colons as distinct keys, none came twice.
        if payload.count(b":") != len(fields) and (key := _key_twice(payload, fields)) is not None:
            return f"the key {key[:60]!r} comes twice"
        ts = fields.pop("ts", None)
        stamp = received_at_ms if ts is None else _milliseconds(ts)
        if isinstance(stamp, str):
            return stamp
        if not 0 < len(fields) <= METRICS_MAX:
            return _wrong_count(len(fields))
        metrics: tuple[str, ...] = tuple(fields)
        values: Collection[Any] = fields.values()
        texts: Mapping[int, str] = {}
        try:
            sum(values)  # the fastest way to ask whether all are numbers
        except TypeError:  # no: a text or a null is among them
            present = {metric: value for metric, value in fields.items() if value is not None}
            metrics = tuple(present)
            values, texts = _apart(
                present.values(), [at for at, v in enumerate(present.values()) if isinstance(v, str)]
            )
            if reason := _too_long(metrics, texts):
                return reason
        try:
            ids = self._series[metrics]
        except FieldlineError as error:
            return str(error)
        into.add(ids, values, stamp, TIME_FROM_GATEWAY if ts is None else TIME_FROM_DEVICE, texts)
        kinds = tuple(fields), tuple(map(type, fields.values())), type(ts)
        if kinds == self._kinds:
            self._shape, self._ids = shape_of(kinds), ids
        self._kinds = kinds
        return None


def _apart(values: Iterable[Value], places: Iterable[int]) -> tuple[list[float], dict[int, str]]:
    """Values that are not null with NaN in the places of texts, and the texts by place."""
    numbers: list[Any] = list(values)
    texts = {place: numbers[place] for place in places}
    for place in texts:
        numbers[place] = NAN
    return numbers, texts


def _too_long(metrics: Sequence[str], texts: Mapping[int, str]) -> str | None:
    for place, text in texts.items():
        size = len(text) if text.isascii() else len(text.encode())
        if size > TEXT_BYTES_MAX:
            return f"the text of {metrics[place][:60]!r} has {size} bytes, at most {TEXT_BYTES_MAX} are allowed"
    return None


def _wrong_count(metrics: int) -> str:
    if metrics:
        return f"the message has {metrics} metrics, at most {METRICS_MAX} are allowed"
    return "the message holds no metric"


def _milliseconds(ts: float | str | bool) -> int | str:
    """`ts` in ms since 1970 UTC, or the reason why it is none."""
    if isinstance(ts, float) and AT_MS_MIN <= ts < AT_MS_MAX - 1:  # the common case first
        return round(ts)
    if isinstance(ts, str):
        try:
            since = msgspec.convert(ts, _Zoned) - _EPOCH
        except (msgspec.ValidationError, OverflowError):
            return f"ts must be RFC 3339 with a zone, such as 2026-01-31T12:00:00Z, got {ts[:60]!r}"
        at = (since.days * 86_400 + since.seconds) * 1000 + round(since.microseconds / 1000)
    elif isinstance(ts, bool):
        return f"ts must be a number or an RFC 3339 string, got {str(ts).lower()}"
    else:
        at = round(ts * 1000) if -SECONDS_BELOW < ts < SECONDS_BELOW else round(ts)
    if not AT_MS_MIN <= at < AT_MS_MAX:
        shown = repr(ts[:60]) if isinstance(ts, str) else f"{ts:.17g}"
        return f"ts must be seconds or milliseconds since 1970 that lie in 2000-2099, got {shown}"
    return at


def _key_twice(payload: bytes, fields: dict[str, Value]) -> str | None:
    """The first key that comes twice. More colons than keys can also come from names and texts."""
    colons = len(fields) + sum(key.count(":") for key in fields)
    colons += sum(value.count(":") for value in fields.values() if isinstance(value, str))
    if b"\\" not in payload and payload.count(b":") == colons:
        return None
    seen: set[str] = set()
    # Flat and valid, or `fields` would not be; str instead of numbers, for they are not wanted.
    for key in json.loads(payload, object_pairs_hook=list, parse_int=str, parse_float=str):
        if key[0] in seen:
            return str(key[0])
        seen.add(key[0])
    return None


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

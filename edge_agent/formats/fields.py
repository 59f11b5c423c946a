"""From the fields of an object to readings: what json, cbor and msgpack have in common, once the bytes are read.

A number is a reading, as a float64 (an integer beyond 2^53 is rounded to it). true and false are 1.0 and 0.0. A
string is a text reading. null is no reading. `ts` says when the device measured, see `times`; without it, or when
null, the arrival counts.

Refused, always as a whole: NaN and infinities, a message without any metric, objects and arrays among the values
(unless the mapping says how to take them, see `objects`), an absurd `ts`, a name that is no name.
Limits: METRICS_MAX metrics and READINGS_MAX readings per message, TEXT_BYTES_MAX per text and TEXTS_CHARS_MAX in the
readings of several times, DEPTH_MAX objects and arrays within each other.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from math import isfinite
from typing import Any, NamedTuple

from edge_agent.readings import Readings, SeriesIds
from telemetry.columns import NAN
from telemetry.errors import FieldlineError

METRICS_MAX = 4096
READINGS_MAX = 100_000
TEXT_BYTES_MAX = 64 * 1024
TEXTS_CHARS_MAX = 16 * 1024 * 1024
DEPTH_MAX = 16

TOO_DEEP = f"the payload has objects or arrays that are nested deeper than {DEPTH_MAX}"

Value = float | str | bool | None

_KINDS: dict[type, str] = {dict: "an object", list: "an array", bytes: "a byte string"}


class Sample(NamedTuple):
    """Readings of one time: `values` and `texts` are as in `Readings.add`."""

    metrics: tuple[str, ...]
    values: Collection[float]
    measured_at_ms: float
    quality: int
    texts: Mapping[int, str] | None


def sample(fields: dict[str, Any], measured_at_ms: float | str, quality: int) -> Sample:
    """The readings of an object without its time, which may be a reason. Raises FieldlineError, the reason."""
    if isinstance(measured_at_ms, str):
        raise FieldlineError(measured_at_ms)
    if not 0 < len(fields) <= METRICS_MAX:
        raise FieldlineError(wrong_count(len(fields)))
    values: Collection[Any] = fields.values()
    try:
        plain = isfinite(sum(values))  # the fastest way to ask whether all are numbers
    except (TypeError, OverflowError):  # no: a text, a null or what is no reading is among them
        plain = False
    if plain:
        return Sample(tuple(fields), values, measured_at_ms, quality, None)
    present = {metric: value for metric, value in fields.items() if value is not None}
    for metric, value in present.items():
        if fault := _fault(value):
            raise FieldlineError(f"{metric[:60]!r} {fault}")
    metrics = tuple(present)
    numbers, texts = apart(present.values(), [at for at, v in enumerate(present.values()) if isinstance(v, str)])
    if reason := too_long(metrics, texts):
        raise FieldlineError(reason)
    return Sample(metrics, numbers, measured_at_ms, quality, texts)


def add_samples(samples: Iterable[Sample], series: SeriesIds, into: Readings) -> None:
    """All readings of a message, or none: raises FieldlineError before any is added, also for a bad name."""
    taken: list[Sample] = []
    readings = texts_chars = 0
    for each in samples:  # one by one: a message can say once what belongs to many times
        taken.append(each)
        readings += len(each.metrics)
        texts_chars += sum(map(len, each.texts.values())) if each.texts else 0
        if readings > READINGS_MAX or texts_chars > TEXTS_CHARS_MAX:
            raise FieldlineError(
                f"the message has more than {READINGS_MAX} readings, or {TEXTS_CHARS_MAX} characters in their texts"
            )
    if len(taken) == 1:
        into.add(series[each.metrics], each.values, each.measured_at_ms, each.quality, each.texts)
        return
    metrics = tuple(dict.fromkeys(chain.from_iterable(each.metrics for each in taken)))
    if len(metrics) > METRICS_MAX:
        raise FieldlineError(wrong_count(len(metrics)))
    ids = series[metrics]
    id_of = dict(zip(metrics, ids, strict=True))
    for each in taken:
        own = ids if each.metrics == metrics else [id_of[metric] for metric in each.metrics]
        into.add(own, each.values, each.measured_at_ms, each.quality, each.texts)


def apart(values: Iterable[Value], places: Iterable[int]) -> tuple[list[float], dict[int, str]]:
    """Values that are not null with NaN in the places of texts, and the texts by place."""
    numbers: list[Any] = list(values)
    texts = {place: numbers[place] for place in places}
    for place in texts:
        numbers[place] = NAN
    return numbers, texts


def too_long(metrics: Sequence[str], texts: Mapping[int, str]) -> str | None:
    """The reason if a text is too long."""
    for place, text in texts.items():
        size = len(text) if text.isascii() else len(text.encode())
        if size > TEXT_BYTES_MAX:
            return f"the text of {metrics[place][:60]!r} has {size} bytes, at most {TEXT_BYTES_MAX} are allowed"
    return None


def wrong_count(metrics: int) -> str:
    """The reason for a message of none or too many metrics."""
    if metrics:
        return f"the message has {metrics} metrics, at most {METRICS_MAX} are allowed"
    return "the message holds no metric"


def _fault(value: object) -> str | None:
    """What keeps a value that is not null from being a reading."""
    if isinstance(value, str):
        return None
    if not isinstance(value, int | float):
        kind = _KINDS.get(type(value), "of an unknown kind")
        return f"is {kind}, only a number, text, true, false or null can be a reading"
    try:
        return None if isfinite(value) else f"is {value}, only finite numbers can be readings"
    except OverflowError:
        return "is out of a float64's range"

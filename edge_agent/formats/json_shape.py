"""A parser for JSON messages of one shape: the same keys each time, with the same kinds of values.

Made by msgspec for these keys, it makes no dictionary and looks nothing up. It refuses what lacks a key or has a
value of another kind; keys that it does not know, or that come twice, it would not notice: see `Shape.keys`.

Limits: shapes of at most SHAPE_METRICS_MAX metrics, SHAPES_MAX of them remembered.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from types import NoneType
from typing import Any

import msgspec

SHAPES_MAX = 256
SHAPE_METRICS_MAX = 64

Kinds = tuple[tuple[str, ...], tuple[type, ...], type]
"""What messages of one shape have in common: their metrics, the types of the values, and that of `ts`."""


@dataclass(slots=True)
class Shape:
    """keys: how many a message has. Each has a colon of its own, and `parse` wants all of them: so a message with as
    many colons has none of them twice, and no others.

    parse: raises msgspec.DecodeError for messages of another shape, and UnicodeDecodeError. has_ts: what it
    returns has a number `ts`. values: of the metrics that are not null, which `metrics` names. texts: the places
    of texts among them.
    """

    parse: Callable[[bytes], Any]
    keys: int
    has_ts: bool
    values: Callable[[Any], tuple[Any, ...]]
    metrics: tuple[str, ...]
    texts: tuple[int, ...]


@lru_cache(SHAPES_MAX)
def shape_of(kinds: Kinds) -> Shape | None:
    """The parser; None for a shape that is not worth one or cannot have one."""
    metrics, types, ts = kinds
    has_ts = ts is float
    if not (has_ts or ts is NoneType) or len(metrics) > SHAPE_METRICS_MAX:
        return None
    keys = {f"f{index}": metric for index, metric in enumerate(metrics)}
    fields = [*zip(keys, types, strict=True), *([("ts", float)] if has_ts else [])]
    try:
        struct = msgspec.defstruct("Message", fields, rename=keys, gc=False)
    except ValueError:  # a key that must be escaped
        return None
    present = [each for each in zip(keys, metrics, types, strict=True) if each[2] is not NoneType]
    return Shape(
        parse=msgspec.json.Decoder(struct).decode,
        keys=len(fields),
        has_ts=has_ts,
        values=_getter([field for field, _, _ in present]),
        metrics=tuple(metric for _, metric, _ in present),
        texts=tuple(place for place, (_, _, type_) in enumerate(present) if type_ is str),
    )


def _getter(fields: list[str]) -> Callable[[Any], tuple[Any, ...]]:
    """The values of some fields, always as a tuple."""
    if len(fields) > 1:
        return attrgetter(*fields)
    if not fields:
        return lambda _message: ()
    get = attrgetter(fields[0])
    return lambda message: (get(message),)

"""Format `struct`: records of a fixed binary layout, which the mapping declares field by field.

Integers of 1, 2, 4 and 8 bytes (two's complement), IEEE 754 floats of 4 and 8, booleans of one (0 is false), and pads,
one after the other without gaps, all in one byte order. A payload is one record or several. The reading of a field is
scale times the number in it, plus offset, rounded once to a float64: 2151 with the scale 0.01 is 21.51. A float that
is NaN is no reading. The field `ts` has the record's time, in `time_unit` since 1970; without it the arrival counts.

Refused, always as a whole: a payload that is not a whole number of records, a time outside 1970-2099, infinities,
names that are none. Limits: the fields that the config allows; the caller limits the payload.
"""

import struct
from collections.abc import Sequence
from fractions import Fraction
from functools import lru_cache
from itertools import compress
from math import isfinite, isinf, isnan, lcm
from operator import add, mul, truediv
from typing import NamedTuple

from edge_agent.config import Struct
from edge_agent.formats.times import from_epoch
from edge_agent.readings import Readings, SeriesIds
from telemetry.columns import TIME_FROM_DEVICE, TIME_FROM_GATEWAY
from telemetry.errors import FieldlineError

LAYOUTS_MAX = 256
_TYPES = ("u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64", "bool", "pad")
_CODES = dict(zip(_TYPES, "BHIQbhiqfd?x", strict=True))


class _Layout(NamedTuple):
    """A layout as it is used. time: the place of `ts`.

    factors, summands, divisors: of each metric, whole numbers that give (raw * factor + summand) / divisor.
    """

    record: struct.Struct
    time: int | None
    metrics: tuple[str, ...]
    is_scaled: bool
    factors: tuple[int, ...]
    summands: tuple[int, ...]
    divisors: tuple[int, ...]

    def values(self, record: tuple[float, ...]) -> Sequence[float]:
        """The readings of a record's fields."""
        if self.time is not None:
            record = record[: self.time] + record[self.time + 1 :]
        if not self.is_scaled:
            return record
        return [*map(truediv, map(add, map(mul, record, self.factors), self.summands), self.divisors)]


class StructDecoder:
    """The messages of one topic."""

    __slots__ = ("_layout", "_options", "_series")

    def __init__(self, series: SeriesIds, options: Struct) -> None:
        self._series = series
        self._options = options
        self._layout = _layout(options)

    def __call__(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        """See `edge_agent.formats`; times in ms since 1970 UTC."""
        layout = self._layout
        size = layout.record.size
        if not payload or len(payload) % size:
            return f"the payload has {len(payload)} bytes, a record of the layout has {size}"
        at: float = received_at_ms
        quality = TIME_FROM_GATEWAY
        taken: list[tuple[tuple[str, ...], Sequence[float], float]] = []
        for number, record in enumerate(layout.record.iter_unpack(payload), 1):
            metrics, values = layout.metrics, layout.values(record)
            if layout.time is not None:
                stamp = from_epoch(record[layout.time], self._options.time_unit)
                if isinstance(stamp, str):
                    return f"record {number}: {stamp}"
                at, quality = stamp, TIME_FROM_DEVICE
            if not isfinite(sum(values)):  # perhaps one of them is not
                if any(map(isinf, values)):
                    return f"record {number}: {metrics[[*map(isinf, values)].index(True)][:60]!r} is infinite"
                present = [not isnan(value) for value in values]
                metrics, values = tuple(compress(metrics, present)), [*compress(values, present)]
            taken.append((metrics, values, at))
        try:
            self._series[tuple(dict.fromkeys(metric for metrics, _, _ in taken for metric in metrics))]  # all or none
        except FieldlineError as error:
            return str(error)
        for metrics, values, at in taken:
            into.add(self._series[metrics], values, at, quality)
        return None


@lru_cache(LAYOUTS_MAX)
def _layout(options: Struct) -> _Layout:
    codes = [f"{field.bytes if field.type == 'pad' else ''}{_CODES[field.type]}" for field in options.fields]
    named = [field for field in options.fields if field.name]
    scaled = [field for field in named if field.name != "ts"]
    exact = [(Fraction(str(field.scale)), Fraction(str(field.offset))) for field in scaled]
    divisors = tuple(lcm(scale.denominator, offset.denominator) for scale, offset in exact)
    return _Layout(
        record=struct.Struct(("<" if options.byte_order == "little" else ">") + "".join(codes)),
        time=next((place for place, field in enumerate(named) if field.name == "ts"), None),
        metrics=tuple(field.name for field in scaled),
        is_scaled=any(scale != 1 or offset for scale, offset in exact),
        factors=tuple(int(scale * divisor) for (scale, _), divisor in zip(exact, divisors, strict=True)),
        summands=tuple(int(offset * divisor) for (_, offset), divisor in zip(exact, divisors, strict=True)),
        divisors=divisors,
    )

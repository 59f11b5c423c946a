"""Values as integers: what a sensor says as 21.53 is 2153 hundredths, and changes by a few of them at a time.

Every value of a metric is scaled by the same power of ten. A value that would not come back from its integer to the
bit, by the very division that the decoder does, goes as a float64 beside it: -0.0, NaN, infinities, 0.1 + 0.2. Of
a metric whose values are no decimals all go that way.
"""

import struct
from array import array
from collections.abc import Iterable, Sequence
from itertools import chain, repeat
from typing import TypeVar

from telemetry import lanes
from telemetry.packing import DELTA, GROUPED, PLAIN, column, cost, shortest, varint

T = TypeVar("T")

DIGITS_MAX = 9
STRAY_SHARE_MAX = 1 / 20
"""Of a metric's sample: how many may be no decimals before all of its values go as float64."""

SAMPLE = 256
"""About how many values are looked at to find out how many digits a metric has."""
SMALL_ROWS = 64
"""In a batch this small all decimals have the same number of digits: the difference costs less than to say it."""
DEEP_DIGITS, TRIED = 6, 2048
"""From so many digits on, decimals may be what a float32 looks like: so many of them are tried against float64."""
NAN_BITS = b"\0\0\0\0\0\0\xf8\x7f"

_ROUND = 1.5 * 2.0**52
"""Added to a float64 below 2^51 it leaves the nearest integer in the lowest bits."""
_ROUND_BITS = struct.pack("<d", _ROUND)
_POWERS = [10.0**digits for digits in range(DIGITS_MAX + 1)]


def pack(values: list[float], counts: list[int], series: list[int]) -> bytes:
    """The values of a batch, in the order of its series: from the numbers of digits to the exceptions.

    counts: how many values the metrics have, one after the other; series: how many series.
    """
    digits = _digits_of_metrics(values, counts)
    integers, exceptions = scaled(values, counts, digits)
    floats = lanes.load(array("d", [values[place] for place in exceptions])) ^ lanes.fill(NAN_BITS, len(exceptions))
    return b"".join(
        (
            column(lanes.of(_spread([places or 0 for places in digits], series)), sum(series), DELTA),
            column(lanes.load(integers), len(values), GROUPED | DELTA),
            varint(len(exceptions)),
            column(lanes.of(exceptions), len(exceptions), DELTA),
            shortest(column(floats, len(exceptions), form) for form in (PLAIN, 0, DELTA)),
        )
    )


def _digits_of_metrics(values: list[float], counts: list[int]) -> list[int | None]:
    found: list[int | None] = []
    at = 0
    for count in counts:
        step = max(count * len(counts) // SAMPLE, 1)
        digits = digits_of(values[at : at + count : step])
        if digits is not None and digits >= DEEP_DIGITS and _is_shorter_as_float(values[at : at + TRIED], digits):
            digits = None
        found.append(digits)
        at += count
    if len(values) <= SMALL_ROWS:
        most = max((digits for digits in found if digits is not None), default=0)
        return [None if digits is None else most for digits in found]
    return found


def _is_shorter_as_float(values: list[float], digits: int) -> bool:
    integers, _ = scaled(values, [len(values)], [digits])
    return cost(array("d", values).tobytes()) < cost(column(lanes.load(integers), len(values), DELTA))


def digits_of(sample: Iterable[float]) -> int | None:
    """How many digits behind the point the decimals of a sample have; None if it is not of decimals."""
    found = [_digits(value) for value in sample]
    decimals = [digits for digits in found if digits is not None]
    return max(decimals) if len(found) - len(decimals) <= STRAY_SHARE_MAX * len(found) else None


def _digits(value: float) -> int | None:
    text = repr(value)
    if "e" in text:
        text = f"{value:.{DIGITS_MAX}f}"
    digits = len(text.rstrip("0").partition(".")[2])
    return digits if digits <= DIGITS_MAX and float(text) == value else None


def scaled(
    values: Sequence[float], counts: Sequence[int], digits: Sequence[int | None]
) -> "tuple[array[int], list[int]]":
    """Integers for the values, and the positions of values that are not what their integer says.

    values: counts[0] of the first metric, then counts[1] of the second …
    digits: of the metrics, in the same order; None: no decimals.
    """
    n = len(values)
    if all(places is None for places in digits):
        return array("q", bytes(lanes.LANE_BYTES * n)), list(range(n))
    scales = _spread([_POWERS[places or 0] for places in digits], counts)
    rounded = array("d", [value * scale + _ROUND for value, scale in zip(values, scales, strict=True)])
    integers = array("q", lanes.dump(lanes.minus(lanes.load(rounded), lanes.fill(_ROUND_BITS, n), n), n))
    back = array("d", [integer / scale for integer, scale in zip(integers, scales, strict=True)]).tobytes()
    plain = array("d", values).tobytes()
    if None not in digits and back == plain:
        return integers, []
    is_float = _spread([places is None for places in digits], counts)
    pairs = zip(memoryview(back).cast("q"), memoryview(plain).cast("q"), is_float, strict=True)
    exceptions = [at for at, (ours, theirs, apart) in enumerate(pairs) if apart or ours != theirs]
    for at in exceptions:
        integers[at] = 0
    return integers, exceptions


def _spread(items: Iterable[T], counts: Sequence[int]) -> list[T]:
    """Each item as often as its metric has values."""
    return list(chain.from_iterable(map(repeat, items, counts)))

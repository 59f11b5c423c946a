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

T = TypeVar("T")

DIGITS_MAX = 9
STRAY_SHARE_MAX = 1 / 20
"""Of a metric's sample: how many may be no decimals before all of its values go as float64."""

_ROUND = 1.5 * 2.0**52
"""Added to a float64 below 2^51 it leaves the nearest integer in the lowest bits."""
_ROUND_BITS = struct.pack("<d", _ROUND)
_POWERS = [10.0**digits for digits in range(DIGITS_MAX + 1)]


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

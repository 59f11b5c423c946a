"""Values become integers only where the division gives them back to the bit."""

import math
import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from telemetry.decimals import DIGITS_MAX, digits_of, scaled
from tests.records import doubles

HARD = [
    0.0,
    -0.0,
    0.1 + 0.2,
    math.nan,
    -math.nan,
    math.inf,
    -math.inf,
    5e-324,
    1.7976931348623157e308,
    2.0**51,
    2.0**53,
]
HARD += [-(2.0**51), 2.0**52 + 1, -(2.0**63), 1e15, 123456789.125, 1e-9, 0.5, 2.5, -21.53, 1 / 3]
decimals = st.builds(lambda whole, digits: whole / 10.0**digits, st.integers(-(2**30), 2**30), st.integers(0, 3))


def bits(values: "list[float] | array[float]") -> list[int]:
    return list(struct.unpack(f"<{len(values)}q", struct.pack(f"<{len(values)}d", *values)))


@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(0, DIGITS_MAX), st.lists(doubles | decimals | st.sampled_from(HARD), min_size=1)
        ),
        min_size=1,
        max_size=5,
    )
)
def test_every_value_comes_back_from_its_integer_or_is_an_exception(
    metrics: list[tuple[int | None, list[float]]],
) -> None:
    values = [value for _, part in metrics for value in part]
    scales = [10.0 ** (digits or 0) for digits, part in metrics for _ in part]
    integers, exceptions = scaled(values, [len(part) for _, part in metrics], [digits for digits, _ in metrics])
    back = [integer / scale for integer, scale in zip(integers, scales, strict=True)]
    apart = set(exceptions)
    assert exceptions == sorted(apart)
    assert all(
        at in apart or ours == theirs for at, (ours, theirs) in enumerate(zip(bits(back), bits(values), strict=True))
    )
    floats = [at for at, (digits, _) in enumerate((d, v) for d, part in metrics for v in part) if digits is None]
    assert apart.issuperset(floats)
    assert all(integers[at] == 0 for at in exceptions)


@given(st.lists(decimals, min_size=1))
def test_decimals_of_few_digits_are_integers_all_but_minus_zero(values: list[float]) -> None:
    digits = digits_of(values)
    assert digits is not None
    assert digits <= 3
    _, exceptions = scaled(values, [len(values)], [digits])
    assert exceptions == [at for at, value in enumerate(values) if bits([value]) == bits([-0.0])]


@pytest.mark.parametrize(
    ("sample", "digits"),
    [
        ([20.0, 3.0], 0),
        ([21.5, 20.0], 1),
        ([1e-05], 5),
        ([48.8566123], 7),
        ([1e-10], None),
        ([0.1 + 0.2], None),
        ([math.nan], None),
        ([21.53] * 19 + [1 / 3], 2),
        ([21.53] * 18 + [1 / 3], None),
    ],
)
def test_the_digits_of_a_sample(sample: list[float], digits: int | None) -> None:
    assert digits_of(sample) == digits

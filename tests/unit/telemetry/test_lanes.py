"""Vectors in one integer do what a loop over their lanes would do, modulo 2^64."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from telemetry import lanes

words = st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300) | st.sampled_from([-(2**63), 2**63 - 1, 0, -1])
vectors = st.lists(words, min_size=1, max_size=40)


def wrapped(value: int) -> int:
    return (value + 2**63) % 2**64 - 2**63


def lanes_in(x: int, n: int) -> list[int]:
    data = lanes.dump(x, n)
    return [int.from_bytes(data[at : at + 8], "little", signed=True) for at in range(0, 8 * n, 8)]


@given(vectors)
def test_what_was_put_in_comes_out(values: list[int]) -> None:
    assert lanes_in(lanes.of(values), len(values)) == values
    assert lanes.first(lanes.of(values)) == values[0]


@given(st.binary(min_size=1, max_size=40))
def test_bytes_are_widened(data: bytes) -> None:
    assert lanes.widened(data) == lanes.of(data)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=40))
def test_minus(pairs: list[tuple[int, int]]) -> None:
    x, y = (lanes.of(side) for side in zip(*pairs, strict=True))
    assert lanes_in(lanes.minus(x, y, len(pairs)), len(pairs)) == [wrapped(a - b) for a, b in pairs]


@given(vectors)
def test_steps(values: list[int]) -> None:
    n = len(values) - 1
    assert lanes_in(lanes.steps(lanes.of(values), len(values)), n) == [wrapped(b - a) for a, b in pairwise(values)]


@given(vectors)
def test_zigzag(values: list[int]) -> None:
    made = lanes.zigzag(lanes.of(values), len(values))
    assert [lane % 2**64 for lane in lanes_in(made, len(values))] == [2 * v if v >= 0 else -2 * v - 1 for v in values]


@given(vectors)
def test_planes_are_the_lanes_bytes_up_to_the_last_that_counts(values: list[int]) -> None:
    planes = lanes.planes(lanes.of(values), len(values))
    assert not planes or any(planes[-1])
    whole = [*planes, *[bytes(len(values))] * (8 - len(planes))]
    assert [int.from_bytes(lane, "little", signed=True) for lane in zip(*whole, strict=True)] == values


@given(vectors, st.booleans())
def test_are_same(values: list[int], same: bool) -> None:
    if same:
        values = [values[0]] * len(values)
    assert lanes.are_same(lanes.of(values), len(values)) == (len(set(values)) == 1)

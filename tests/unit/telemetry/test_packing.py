"""Numbers and texts as they lie in a batch: what was packed is read again, in every form."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.reader import Reader
from telemetry import lanes
from telemetry.errors import WireError
from telemetry.packing import DELTA, GROUPED, PLAIN, RELATIVE, SAME, column, signed, strings, varint

words = st.integers(-(2**63), 2**63 - 1) | st.integers(-300, 300)
FORMS = (0, DELTA, PLAIN, GROUPED, GROUPED | DELTA, GROUPED | RELATIVE, GROUPED | RELATIVE | DELTA, GROUPED | PLAIN)


@given(st.integers(0, 2**64 - 1), words)
def test_varints(unsigned: int, number: int) -> None:
    reader = Reader(varint(unsigned) + signed(number))
    assert (reader.varint(), reader.signed(), reader.left) == (unsigned, number, 0)


@pytest.mark.parametrize("nonsense", [b"\xff" * 10, b"\xff" * 9 + b"\x02", b"\x80" * 20])
def test_a_varint_of_more_than_64_bits_is_refused(nonsense: bytes) -> None:
    with pytest.raises(WireError, match="more than 64 bits"):
        Reader(nonsense).varint()


@given(
    st.lists(words, max_size=40) | st.builds(lambda n, v: [v] * n, st.integers(1, 40), words), st.sampled_from(FORMS)
)
def test_columns(values: list[int], form: int) -> None:
    packed = column(lanes.of(values), len(values), form)
    reader = Reader(packed)
    how, found = reader.column(len(values), GROUPED | RELATIVE)
    assert found.tolist() == values
    assert reader.left == 0
    assert how == (form & (GROUPED | RELATIVE) if values else 0)
    if len(set(values)) == 1:
        assert packed[0] & ~(GROUPED | RELATIVE) == SAME


def test_a_steady_series_takes_a_few_bytes() -> None:
    assert len(column(lanes.of(range(1_700_000_000_000, 1_700_060_000_000, 60_000)), 1000, DELTA)) == 10


@given(st.lists(st.binary(max_size=300), max_size=40))
def test_strings(texts: list[bytes]) -> None:
    reader = Reader(strings(texts) + b"behind")
    assert reader.strings(len(texts)) == texts
    assert reader.rest() == b"behind"


@pytest.mark.parametrize(
    "nonsense",
    [b"\x09", b"\x0d", bytes([DELTA | PLAIN]) + bytes(40), bytes([0x80]), bytes([GROUPED]), bytes([RELATIVE]), b""],
    ids=["9 planes", "13 planes", "steps of plain", "an unknown flag", "grouped", "relative", "nothing"],
)
def test_a_column_of_no_form_is_refused(nonsense: bytes) -> None:
    with pytest.raises(WireError):
        Reader(nonsense).column(5)


@pytest.mark.parametrize("lengths", [[3, -1], [2**62, 2**62], [1, 3], [2**63 - 1, 1]])
def test_strings_that_are_longer_than_the_batch_are_refused(lengths: list[int]) -> None:
    with pytest.raises(WireError, match="longer than the batch"):
        Reader(column(lanes.of(lengths), 2) + b"abc").strings(2)


@pytest.mark.parametrize("positions", [[0, 0], [1, 0], [-1, 0], [0, 7], [2**63 - 1, -(2**63)]])
def test_positions_ascend_below_their_end(positions: list[int]) -> None:
    with pytest.raises(WireError, match="not ascending below 7"):
        Reader(column(lanes.of(positions), 2)).positions(2, 7, "positions")

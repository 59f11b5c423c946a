"""Replay windows, compared with the plainest model: the set of all numbers that were here."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collect.coap_window import NUMBERS, Window

HIGHEST = 2**40 - 1


@given(
    st.integers(0, HIGHEST),
    st.lists(
        st.tuples(st.integers(-2 * NUMBERS, 3 * NUMBERS) | st.sampled_from([HIGHEST]), st.booleans()), max_size=60
    ),
)
def test_every_number_is_taken_once_and_none_from_before_the_beginning(
    first: int, moves: list[tuple[int, bool]]
) -> None:
    window = Window()
    assert not window.takes(first, is_fresh=False)
    assert window.takes(first, is_fresh=True)
    used, highest = {first}, first
    for step, is_fresh in moves:
        number = min(max(0, highest + step), HIGHEST)
        new = number > first and number not in used and number > highest - NUMBERS
        assert window.takes(number, is_fresh=is_fresh) == new
        assert not window.takes(number, is_fresh=is_fresh)
        used.add(number)
        highest = max(highest, number)

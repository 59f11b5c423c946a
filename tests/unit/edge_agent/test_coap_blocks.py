"""Block-wise bodies and the memory of recent requests: pure, bounded."""

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.collect.coap_blocks import TRANSFER_IDLE_S_MAX, TRANSFERS_MAX, Blocks, Step
from edge_agent.collect.coap_endpoint import EXCHANGE_LIFETIME_S, Key, Recent


def key(mid: int) -> Key:
    return ("::1", 5683, 0, mid)


@given(st.binary(max_size=200), st.sampled_from([16, 32, 64]))
def test_a_body_in_order_comes_out_whole(body: bytes, size: int) -> None:
    blocks = Blocks(200)
    pieces = [body[at : at + size] for at in range(0, len(body), size)] or [b""]
    steps = [
        blocks.take("a", number, size, piece, 0.0, more=number < len(pieces) - 1) for number, piece in enumerate(pieces)
    ]
    assert steps == [Step.CONTINUE] * (len(pieces) - 1) + [body]
    assert len(blocks) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 5), st.binary(max_size=20), st.booleans(), st.floats(0, 50))
    )
)
def test_blocks_in_any_order_give_whole_bodies_or_nothing(
    moves: list[tuple[str, int, bytes, bool, float]],
) -> None:
    """Compared with the plainest model: a list of the blocks since block 0."""
    blocks, model, now_s = Blocks(48), dict[str, bytes](), 0.0
    for name, number, data, more, pause_s in moves:
        now_s += pause_s / 1000
        got = blocks.take(name, number, 16, data, now_s, more=more)
        if len(data) > 16 or (more and len(data) < 16):
            assert got is Step.MALFORMED
            continue
        held = b"" if number == 0 else model.pop(name, None)
        model.pop(name, None)
        if held is None or len(held) != number * 16:
            assert got is Step.INCOMPLETE
        elif len(held) + len(data) > 48:
            assert got is Step.TOO_LARGE
        elif more:
            assert got is Step.CONTINUE
            model[name] = held + data
        else:
            assert got == held + data
        assert len(blocks) == len(model)


def test_open_transfers_are_limited_and_the_longest_waiting_makes_room() -> None:
    blocks = Blocks(1000)
    for name in range(TRANSFERS_MAX + 1):
        blocks.take(name, 0, 16, b"x" * 16, 0.0, more=True)
    assert len(blocks) == TRANSFERS_MAX
    assert blocks.take(0, 1, 16, b"", 0.0, more=False) is Step.INCOMPLETE
    assert blocks.take(1, 1, 16, b"y", 0.0, more=False) == b"x" * 16 + b"y"


def test_a_transfer_that_waits_too_long_is_forgotten() -> None:
    blocks = Blocks(1000)
    blocks.take("old", 0, 16, b"x" * 16, 0.0, more=True)
    blocks.take("new", 0, 16, b"x" * 16, TRANSFER_IDLE_S_MAX + 1, more=True)
    assert len(blocks) == 1


def test_a_request_is_remembered_for_its_lifetime() -> None:
    recent = Recent(now_s=0.0)
    assert not recent.is_repeated(key(1), 10.0)
    assert recent.answer_of(key(1)) is None
    recent.answer(key(1), b"ack")
    assert recent.is_repeated(key(1), 10.0 + EXCHANGE_LIFETIME_S - 1)
    assert recent.answer_of(key(1)) == b"ack"
    assert not recent.is_repeated(key(1), 10.0 + EXCHANGE_LIFETIME_S)


def test_memory_is_limited_and_says_when_it_is_incomplete() -> None:
    recent = Recent(now_s=0.0, requests_max=2)
    assert not recent.is_complete(EXCHANGE_LIFETIME_S - 1)
    now_s = EXCHANGE_LIFETIME_S
    assert recent.is_complete(now_s)
    for mid in range(3):
        assert not recent.is_repeated(key(mid), now_s)
    assert len(recent) == 2
    assert not recent.is_complete(now_s)
    assert not recent.is_repeated(key(0), now_s)
    assert recent.is_complete(now_s + EXCHANGE_LIFETIME_S)
    recent.answer(key(1), b"late")  # forgotten meanwhile: nothing happens

"""Slots: each holds what was written to it and nothing older, is nobody else's meanwhile, and all are bounded."""

import asyncio
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.clickhouse.spill import Slot, Spill

KIB = 1024


def written(slot: Slot | None, data: bytes) -> bytes:
    """What a reader finds under the slot's path after this was written."""
    assert slot is not None
    slot.cut(len(data))[:] = data
    return slot.path.read_bytes()


@pytest.fixture
def spill(tmp_path: Path) -> Spill:
    return Spill(tmp_path, memory_bytes_max=256 * KIB)


@given(st.lists(st.tuples(st.integers(0, 200 * KIB), st.integers(0, 255)), max_size=20))
def test_a_slot_is_just_as_long_as_its_data_whoever_had_it_before(loads: list[tuple[int, int]]) -> None:
    spill = Spill(Path(), memory_bytes_max=1024 * KIB)
    for length, byte in loads:
        data = bytes([byte]) * length
        with spill.slot(length) as slot:
            assert written(slot, data) == data


def test_two_at_a_time_never_share_one(spill: Spill) -> None:
    with spill.slot(1000) as one, spill.slot(1000) as two:
        assert written(one, b"1" * 1000) == b"1" * 1000
        assert written(two, b"2" * 1000) == b"2" * 1000
        assert one is not None
        assert one.path.read_bytes() == b"1" * 1000


def test_one_is_used_again_also_after_a_failure(spill: Spill) -> None:
    with spill.slot(70_000) as first:
        pass
    with suppress(ValueError), spill.slot(100_000) as second:
        raise ValueError
    with spill.slot(65_537) as third:
        assert first is second is third is not None


def test_there_is_no_more_memory_than_allowed_and_idle_slots_make_room(spill: Spill) -> None:
    with ExitStack() as stack:
        slots = [stack.enter_context(spill.slot(64 * KIB)) for _ in range(5)]
        assert [slot is not None for slot in slots] == [True] * 4 + [False]
    with spill.slot(256 * KIB) as large:
        assert written(large, b"x" * 256 * KIB) == b"x" * 256 * KIB
        with spill.slot(1) as none:
            assert none is None
    with spill.slot(256 * KIB + 1) as too_large:
        assert too_large is None
    with spill.slot(1) as small:
        assert small is not None


def test_what_a_cancelled_request_had_is_nobodys_again(spill: Spill) -> None:
    """Its statement may still be reading."""
    with suppress(asyncio.CancelledError), spill.slot(1000) as left:
        assert written(left, b"mine") == b"mine"
        raise asyncio.CancelledError
    with ExitStack() as stack:
        others = [stack.enter_context(spill.slot(1000)) for _ in range(4)]
        assert left not in others
        assert [other is not None for other in others] == [True] * 3 + [False], "and it still counts"
    assert left is not None
    assert left.path.read_bytes() == b"mine"

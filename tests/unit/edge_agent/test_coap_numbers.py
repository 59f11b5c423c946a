"""The numbers of OSCORE's answers: none twice, over crashes, lost files and clocks that were set."""

from pathlib import Path

import pytest

from edge_agent.collect import coap_numbers
from edge_agent.collect.coap_numbers import BLOCK, FILE, NUMBER_MAX, PER_S, SINCE_S, Numbers
from telemetry.errors import ConfigError, FieldlineError

NOW_MS = (SINCE_S + 1000) * 1000


def test_no_agent_gives_a_number_of_one_before(tmp_path: Path) -> None:
    """Each is killed after some; none had the chance to say where it was."""
    given: list[int] = []
    for used, now_ms in ((3, NOW_MS), (0, NOW_MS), (1, 0), (BLOCK + 2, NOW_MS), (2 * BLOCK, 0), (1, NOW_MS)):
        numbers = Numbers(tmp_path, now_ms)
        given += [numbers.next() for _ in range(used)]
        assert used == 0 or given[-1] < int((tmp_path / FILE).read_text())
    assert len(set(given)) == len(given)
    assert given == sorted(given)
    assert given[0] == 1000 * PER_S


@pytest.mark.parametrize("step", ["open", "fsync", "replace", "fsync of the directory"])
def test_a_block_is_reserved_on_disk_before_a_number_of_it_is_given(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that fails at any step of that: no number is given, and later none that another agent has had."""
    where, name = (coap_numbers.os, "fsync") if step.startswith("fsync") else (Path, step)
    works, real = [True] * step.endswith("directory"), getattr(where, name)

    def fails(*arguments: object) -> object:
        if not works:
            raise OSError(step)
        works.pop()
        return real(*arguments)

    numbers = Numbers(tmp_path, 0)
    with monkeypatch.context() as patch:
        patch.setattr(where, name, fails)
        for _ in range(2):
            with pytest.raises(OSError, match=step):
                numbers.next()
            works = [True] * step.endswith("directory")
    assert numbers.next() == 0
    assert Numbers(tmp_path, 0).next() == BLOCK


def test_a_directory_that_was_deleted_does_not_begin_anew_if_the_clock_is_right(tmp_path: Path) -> None:
    numbers = Numbers(tmp_path, NOW_MS)
    last = [numbers.next() for _ in range(BLOCK // 2)][-1]
    (tmp_path / FILE).unlink()
    assert Numbers(tmp_path, NOW_MS + BLOCK // PER_S * 1000).next() > last


def test_a_clock_far_ahead_leaves_half_of_the_numbers(tmp_path: Path) -> None:
    assert Numbers(tmp_path, 10**15).next() == NUMBER_MAX // 2
    assert Numbers(tmp_path, 10**15).next() == NUMBER_MAX // 2 + BLOCK


def test_the_last_number_is_the_last(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text(str(NUMBER_MAX - BLOCK))
    numbers = Numbers(tmp_path, NOW_MS)
    assert [numbers.next() for _ in range(BLOCK)][-1] == NUMBER_MAX - 1
    with pytest.raises(FieldlineError, match="used up: give the devices new keys"):
        numbers.next()


def test_a_damaged_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("x")
    with pytest.raises(ConfigError, match="OSCORE nonces could repeat: invalid literal"):
        Numbers(tmp_path, NOW_MS)

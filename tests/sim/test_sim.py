"""The simulation finds nothing in the code as it is, and every bug that is planted; a seed repeats exactly."""

import pytest

from tests.sim import bugs
from tests.sim.world import run

SEEDS_PER_TEST = 20
SEEDS_TO_FIND_A_BUG_MAX = 60


@pytest.mark.parametrize("first", range(1, 201, SEEDS_PER_TEST))
def test_no_schedule_breaks_an_invariant(first: int) -> None:
    for seed in range(first, first + SEEDS_PER_TEST):
        world = run(seed)
        assert not world.violations, "\n".join([*world.log, f"seed {seed}: python -m tests.sim --seed {seed}"])


@pytest.mark.parametrize("bug", bugs.PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    with bugs.PLANTED[bug]():
        assert any(run(seed).violations for seed in range(1, SEEDS_TO_FIND_A_BUG_MAX + 1))


def test_a_seed_repeats_exactly() -> None:
    for seed in (3, 4, 5):
        first, second = run(seed), run(seed)
        assert first.loop.steps == second.loop.steps
        assert first.loop.time() == second.loop.time()
        assert list(first.log) == list(second.log)

"""The simulation finds nothing in the code as it is, and every bug that is planted; a seed repeats exactly."""

import asyncio
import os
import subprocess
import sys

import pytest

from tests.clickhouse import ROOT
from tests.sim import bugs
from tests.sim.loop import SimLoop
from tests.sim.world import run

SEEDS = 200
SEEDS_TO_FIND_A_BUG_MAX = 60


@pytest.mark.timeout(900)
def test_no_schedule_breaks_an_invariant() -> None:
    """On all cores: each process takes a part of the seeds."""
    parts = os.cpu_count() or 1
    each = -(-SEEDS // parts)
    commands = [
        [sys.executable, "-m", "tests.sim", "--seed", str(1 + each * part), "--seeds", str(each)]
        for part in range(parts)
    ]
    processes = [
        subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for command in commands
    ]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * parts, "\n".join(said)


@pytest.mark.parametrize("bug", bugs.PLANTED)
def test_a_planted_bug_is_found(bug: str) -> None:
    with bugs.PLANTED[bug]():
        assert any(run(seed).violations for seed in range(1, SEEDS_TO_FIND_A_BUG_MAX + 1))


def test_two_faults_may_strike_at_the_same_step() -> None:
    loop, struck = SimLoop(), []

    async def main() -> None:
        for fault in ("one", "another"):
            loop.at_step(loop.steps + 3, lambda fault=fault: struck.append(fault))
        await asyncio.sleep(1)
        await asyncio.sleep(1)

    loop.run_until_complete(main())
    loop.close()
    assert struck == ["one", "another"]


def test_a_seed_repeats_exactly() -> None:
    for seed in (3, 4, 5):
        first, second = run(seed), run(seed)
        assert first.loop.steps == second.loop.steps
        assert first.loop.time() == second.loop.time()
        assert list(first.log) == list(second.log)

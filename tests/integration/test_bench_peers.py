"""The comparison's harness with real parts, in small: a peer that is killed, and a ClickHouse that is away."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from bench.peers import runs
from bench.peers.peer import Peer
from bench.peers.peers import PEERS
from bench.peers.stage import on_stage


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"STEADY_S": 3, "KILLS_S": (1.0, 2.0), "OUTAGE_AT_S": 0.5, "OUTAGE_S": 2.0, "ROUNDS": 1}.items():
        monkeypatch.setattr(runs, name, value)


def peer(name: str) -> Peer:
    return next(each for each in PEERS if each.name == name)


def test_a_peer_that_acknowledges_late_loses_nothing(tmp_path: Path):
    async def scenario() -> runs.Custody:
        async with on_stage(peer("script_batched"), tmp_path, tmp_path) as stage:
            return await runs.kills(stage)

    outcome = asyncio.run(scenario())
    assert outcome.acknowledged == 3 * runs.RATE_HZ * 3
    assert outcome.missing == 0
    assert outcome.restarts == 2


def test_a_peer_that_inserts_in_its_callback_loses_what_comes_while_clickhouse_is_away(tmp_path: Path):
    async def scenario() -> runs.Custody:
        async with on_stage(peer("script_first"), tmp_path, tmp_path) as stage:
            return await runs.outage(stage)

    outcome = asyncio.run(scenario())
    assert outcome.missing > 0
    assert outcome.restarts > 0


def test_a_round_of_fieldline(tmp_path: Path):
    async def scenario() -> runs.Throughput:
        async with on_stage(replace(peer("fieldline"), offered=500), tmp_path, tmp_path) as stage:
            return await runs.throughput(stage)

    own = peer("fieldline").own
    outcome = asyncio.run(scenario())
    assert (outcome.missing, outcome.double) == (0, 0)
    assert set(own) <= set(outcome.rounds[0].cpu_s)
    assert all(outcome.memory_mb[name] > 1 for name in own)

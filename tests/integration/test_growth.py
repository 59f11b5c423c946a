"""The benches of latency and growth, in small: each asserts itself that all is stored, and leaves a picture."""

import asyncio
from pathlib import Path
from types import ModuleType

import pytest

from bench import latency
from bench.figure import Figure, Table
from bench.growth import backlog, devices, gateways, messages, series

SMALL: dict[ModuleType, dict[str, object]] = {
    messages: {"RATES_HZ": (50,), "WARM_UP_S": 0.5, "SECONDS": 1},
    devices: {"DEVICES": (10, 1_000), "KNOWN_MESSAGES": 500},
    gateways: {"GATEWAYS": (1, 10), "BATCHES": 40, "ROWS": 10},
    series: {"SERIES": (100,), "MESSAGES_MIN": 200},
    backlog: {"LARGE": (1, 60_000), "SMALL": (4, 400), "FULL": False},
}


@pytest.mark.parametrize("module", SMALL, ids=lambda module: module.__name__.rsplit(".", maxsplit=1)[1])
def test_a_curve_in_small(module: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL[module].items():
        monkeypatch.setattr(module, name, value)
    *figures, table = module.run(tmp_path)
    assert all(isinstance(figure, Figure) for figure in figures)
    assert isinstance(table, Table)
    assert all(len(row) == len(table.headings) for row in table.rows)
    assert (tmp_path / f"{table.name}.png").read_bytes().startswith(b"\x89PNG")


def test_probes_are_seen_under_a_load(tmp_path: Path) -> None:
    load = latency.Load("small", devices=5, rate_hz=4, metrics=2, probes=10)
    (outcome,) = asyncio.run(latency.profiled(tmp_path / "run", "low_latency", [load]))
    assert len(outcome.delays_s) == 10
    assert outcome.delays_s[0] > 0
    assert outcome.stored_hz > 0
    assert outcome.commits_hz > 0
    latency.draw([outcome], tmp_path / "latency.png")
    assert (tmp_path / "latency.png").read_bytes().startswith(b"\x89PNG")


def test_tables_of_several_runs_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "growth.json"
    Table("growth-a", "A", ("x", "y"), [[1, 2.5]]).keep(path, "m1")
    Table("growth-b", "B", ("x",), [["none"]]).keep(path, "m2")
    Table("growth-a", "A", ("x", "y"), [[3, 4]]).keep(path, "m3")
    assert '"m3"' in path.read_text()
    assert '"m2"' in path.read_text()
    assert '"m1"' not in path.read_text()

"""After an outage, in small, with real parts: `bench/outage.py` itself asserts that everything is stored once."""

import asyncio
from contextlib import closing
from pathlib import Path

from bench.outage import Outage, catch_up, fleet, opened
from broker_bridge.window import LONG_ROWS
from edge_agent.spool_file import read_status


def test_the_size_of_a_backlog_is_as_the_formula_says(tmp_path: Path) -> None:
    for metrics in (1, 4, 8):
        outage = Outage(days=1, devices=20, metrics=metrics)
        outage.fill(tmp_path / str(metrics), "g")
        found = read_status(tmp_path / str(metrics))
        assert found.last_seq == found.records == outage.readings
        assert 0.9 < outage.bytes_predicted / found.bytes < 1.1


def test_a_backlog_drains_beside_live_readings(tmp_path: Path) -> None:
    outage = Outage(days=1, devices=60)
    figures = asyncio.run(catch_up(tmp_path, outage))
    assert outage.readings > 10 * LONG_ROWS, "two lanes"
    assert figures


def test_a_fleet_that_comes_back_at_once_loses_nothing(tmp_path: Path) -> None:
    figures = asyncio.run(fleet(tmp_path, 40, Outage(days=1, devices=5)))
    assert figures
    with closing(opened(tmp_path / "spools" / "1", "gateway-1")) as spool:
        assert spool.status().records == 0

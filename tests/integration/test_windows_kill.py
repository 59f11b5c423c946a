"""Windows under SIGKILL: each value that a real fleet was told is safe is in one window, and counted."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

from edge_agent.spool_file import read_status
from edge_agent.windows import unpacked
from proof.stack import read_report
from tests import reference
from tests.gateway import spooled
from tests.pipeline import acked, ended, fleet_running, make_stack, until

RULES = """
[[process]]
metric = "*"
window_s = 1.0
aggregates = ["count"]
"""


def test_each_acknowledged_reading_is_in_one_window_and_counted_once(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path, RULES)
        async with stack.running(["device-broker", "edge"]):
            options = ("--devices", "10", "--rate", "40", "--seconds", "6", "--poison", "0.01")
            async with fleet_running(stack, *options) as fleet:
                for messages in (400, 1000):
                    await until(lambda n=messages: acked(stack) >= n, f"{messages} messages are acknowledged")
                    stack.programs["edge"].kill()
                    await until(lambda: stack.programs["edge"].is_running, "the agent is started again")
                assert await ended(fleet) == 0, fleet.tail()
            assert read_report(tmp_path / "fleet.json")["reposted"] == 0
            told, poison = reference.journal(tmp_path / "journal.jsonl")
            spool = tmp_path / "spool"
            await until(lambda: len(spooled(spool)[1]) == poison, "the agent has taken everything")
            readings, _ = spooled(spool)
            with closing(sqlite3.connect(f"file:{spool / 'spool.db'}?mode=ro", uri=True)) as db:
                waiting = [unpacked(packed).count for (packed,) in db.execute("SELECT packed FROM windows")]
            counts = [value * n for (_, metric, _, value), n in readings.items() if metric.endswith(".count")]
            late = sum(n for (_, metric, _, _), n in readings.items() if not metric.endswith(".count"))
            assert len(counts) > len(waiting) > 0
            assert sum(counts) + sum(waiting) + late == told.total()
            assert read_status(spool).thinned == told.total() - late

    asyncio.run(main())

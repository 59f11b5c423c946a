"""The profile low_latency with real parts: accepted by `edge check`, and every value is in the table once."""

import asyncio
import subprocess
from pathlib import Path

from proof.stack import FIELDLINE
from tests import reference
from tests.pipeline import SAMPLE, books, ended, fleet_running, make_stack

PROFILE = 'profile = "low_latency"'


def test_a_pipeline_of_low_latency_stores_everything_once(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path, PROFILE, ingest_toml=PROFILE)
        checking = [*FIELDLINE, "edge", "check", "--config", str(stack.gateway_config)]
        checked = await asyncio.to_thread(subprocess.run, checking, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        async with stack.running():
            async with fleet_running(stack, "--csv", str(SAMPLE), "--speed", "200000", "--seconds", "4") as fleet:
                assert await ended(fleet) == 0, fleet.tail()
            account = await books(stack)
            assert account.holds, account.line()
            assert account.stored > 1000
            client = stack.client()
            journal, _ = reference.journal(tmp_path / "journal.jsonl")
            assert reference.table(client) == journal
            client.close()

    asyncio.run(main())

"""Microseconds and a corrected clock, from mosquitto_pub to SQL, through a SIGKILL of the agent."""

import asyncio
import subprocess
from contextlib import closing
from pathlib import Path

from edge_agent.spool_file import read_status
from telemetry.columns import TIME_CORRECTED
from tests.pipeline import make_stack, until

TOML = """
[time.offsets_s]
pump = 3600.0
"""
QUERY = """
SELECT device, value, toString(measured_at_us), toString(measured_at + toIntervalMillisecond(clock_offset_ms)), quality
FROM fieldline.readings ORDER BY device, value
"""


def test_from_a_device_to_sql_through_a_kill(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path, TOML)

        async def publish(device: str, value: int, ts: str) -> None:
            command = ["mosquitto_pub", "-p", str(stack.ports.mqtt), "-q", "1", "-t", f"devices/{device}/telemetry"]
            await asyncio.to_thread(subprocess.run, [*command, "-m", f'{{"ts": {ts}, "v": {value}}}'], check=True)

        async with stack.running(["device-broker", "edge"]):
            await publish("fan", 1, '"2026-01-01T00:00:00.000001Z"')
            await publish("fan", 2, "1767225600.5")
            await publish("pump", 1, '"2026-01-01T01:00:00.123456Z"')
            await publish("pump", 2, "1767229200000")
            await until(lambda: read_status(tmp_path / "spool").last_seq == 4, "they are spooled")
            stack.programs["edge"].kill()
        async with stack.running():
            with closing(stack.client()) as client:

                def rows() -> list[tuple[object, ...]]:
                    return [tuple(row) for row in client.query(QUERY).result_rows]

                await until(lambda: len(rows()) == 4, "they are in ClickHouse")
                assert rows() == [
                    ("fan", 1, "2026-01-01 00:00:00.000001", "2026-01-01 00:00:00.000", 0),
                    ("fan", 2, "2026-01-01 00:00:00.500000", "2026-01-01 00:00:00.500", 0),
                    ("pump", 1, "2026-01-01 00:00:00.123456", "2026-01-01 01:00:00.123", TIME_CORRECTED),
                    ("pump", 2, "2026-01-01 00:00:00.000000", "2026-01-01 01:00:00.000", TIME_CORRECTED),
                ]

    asyncio.run(main())

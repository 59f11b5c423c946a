"""Tags from mosquitto_pub to SQL, through a SIGKILL of the agent with a spool of the format before."""

import asyncio
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

from edge_agent.spool_file import read_status
from tests.gateway import spooled
from tests.pipeline import make_stack, until

TOML = """
tags = {plant = "north"}
[[mappings]]
topic = "devices/{site}/{device}"
[devices."pump-7"]
name = "cooling"
tags = {line = "2"}
"""


def test_from_a_device_to_sql_through_a_kill_and_an_old_spool(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path, TOML)
        config = stack.gateway_config
        now = config.read_text()
        config.write_text(now.replace("[mqtt]", '[mqtt]\ntopics = ["devices/#"]'))
        tagged = config.read_text()
        config.write_text(tagged.replace(TOML, '\n[[mappings]]\ntopic = "devices/+/{device}"\n'))

        async def publish(device: str, value: int) -> None:
            command = ["mosquitto_pub", "-p", str(stack.ports.mqtt), "-q", "1", "-t", f"devices/plant-7/{device}"]
            await asyncio.to_thread(subprocess.run, [*command, "-m", f'{{"t": {value}}}'], check=True)

        spool = tmp_path / "spool"
        async with stack.running(["device-broker", "edge"]):
            await until((spool / "spool.db").exists, "there is a spool")
            await publish("old", 1)
            await until(lambda: spooled(spool)[0].total() == 1, "it is spooled without tags")
        with closing(sqlite3.connect(spool / "spool.db")) as db:
            db.execute("ALTER TABLE series DROP COLUMN tags")
            db.execute("PRAGMA user_version = 3")
            db.commit()
        config.write_text(tagged)
        async with stack.running():
            for value in (2, 3):
                await publish("pump-7", value)
                await publish("fan", value)
                await until(lambda n=value: read_status(spool).last_seq >= 2 * n - 1, "they are spooled")
                stack.programs["edge"].kill()
                await until(lambda: stack.programs["edge"].is_running, "the agent is started again")
            with closing(stack.client()) as client:

                def rows() -> list[tuple[object, ...]]:
                    query = "SELECT device, value, tags FROM fieldline.readings ORDER BY device, value"
                    return [tuple(row) for row in client.query(query).result_rows]

                await until(lambda: len(rows()) >= 5, "everything is in ClickHouse")
                common = {"plant": "north", "site": "plant-7"}
                assert rows() == [
                    *[("cooling", value, {**common, "line": "2"}) for value in (2, 3)],
                    *[("fan", value, common) for value in (2, 3)],
                    ("old", 1, {}),
                ]
                where = "SELECT count() FROM fieldline.readings WHERE tags['site'] = 'plant-7' AND tags['line'] = ''"
                assert client.query(where).result_rows == [(2,)]

    asyncio.run(main())

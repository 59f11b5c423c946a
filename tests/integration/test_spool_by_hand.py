"""A gateway's spool brought to the cloud by hand: verified, exported while the agent runs, imported, exactly once."""

import asyncio
import json
from pathlib import Path

import paho.mqtt.publish as publish

from analytics.account import fetch
from edge_agent.spool_file import read_status
from proof.stack import GATEWAY, Stack
from tests.commands import fieldline
from tests.pipeline import make_stack, until


async def send(stack: Stack, first: int, count: int) -> None:
    messages = [
        {"topic": "devices/d/telemetry", "payload": json.dumps({"n": n, "ts": 1_790_000_000_000 + n}), "qos": 1}
        for n in range(first, first + count)
    ]
    await asyncio.to_thread(publish.multiple, messages, "127.0.0.1", stack.ports.mqtt)


def test_an_export_is_imported_exactly_once_with_what_had_arrived_and_what_comes_later(tmp_path: Path) -> None:
    """The gateway delivers 100 readings, collects 200 without a cloud, is exported, and comes back after all."""

    async def main() -> None:
        stack = make_stack(tmp_path)
        spool, export, config = tmp_path / "spool", tmp_path / "gateway.fieldline", stack.gateway_config

        async def command(*arguments: object) -> tuple[int, str]:
            done = await asyncio.to_thread(fieldline, *arguments)
            assert "Traceback" not in done.err, done.err
            return done.status, done.out + done.err

        async with stack.running():
            await send(stack, 0, 100)
            await until(lambda: read_status(spool).mark == 100, "the first 100 are confirmed")
            await stack.programs["ingest"].stop()
            await send(stack, 100, 200)
            await until(lambda: read_status(spool).last_seq == 300, "200 are waiting")

            status, said = await command("edge", "spool", "-c", config, "--verify")
            assert (status, "200 records, every one was read" in said) == (0, True), said
            status, said = await command("edge", "spool", "-c", config, "--export", export)
            assert (status, f"200 records behind seq 100 of gateway {GATEWAY}" in said) == (0, True), said
            status, said = await command("edge", "spool", "-c", config, "--export", export)
            assert (status, "exists already" in said) == (1, True), said
            importing = ("ingest", "import", "--config", stack.ingest_config)
            status, said = await command(*importing, spool / "spool.db")
            assert (status, "an agent is running on" in said) == (1, True), said
            status, said = await command(*importing, export, "--gateway", "other")
            assert (status, "is of gateway" in said) == (1, True), said
            status, said = await command(*importing, config)
            assert (status, "is no spool" in said) == (1, True), said

            await send(stack, 300, 50)
            await until(lambda: read_status(spool).last_seq == 350, "50 more are waiting")
            await stack.programs["edge"].stop()
            await stack.start("ingest")
            for _ in range(2):  # the second time nothing is new
                status, said = await command(*importing, export)
                assert (status, "Everything up to seq 300 is in ClickHouse." in said) == (0, True), said
            (row,) = await asyncio.to_thread(fetch, stack.client())
            assert (row.committed, row.stored, row.missing, row.duplicates) == (300, 300, 0, 0)

            await stack.start("edge")
            await until(lambda: read_status(spool).mark == 350, "the gateway came back, and all is confirmed")
            status, said = await command(*importing, export)
            assert (status, "Everything up to seq 300" in said) == (0, True), said
            held = stack.client().query(
                "SELECT groupArray(value) FROM (SELECT value FROM fieldline.readings ORDER BY value)"
            )
            assert held.result_rows == [(list(map(float, range(350))),)]

    asyncio.run(main())


def test_a_damaged_chunk_is_found_by_verify(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running(["device-broker", "edge"]):
            await send(stack, 0, 50)
            await until(lambda: read_status(tmp_path / "spool").last_seq == 50, "50 are waiting")
            await stack.programs["edge"].stop()
        file = tmp_path / "spool" / "spool.db"
        content = bytearray(file.read_bytes())
        at = content.index(bytes.fromhex(read_status(tmp_path / "spool").epoch) + b"\x01\0\0\0")
        content[at + 30] ^= 1
        file.write_bytes(content)
        done = fieldline("edge", "spool", "-c", stack.gateway_config, "--verify")
        assert done.status == 1
        assert "the chunk is damaged (checksum)" in done.out, done

    asyncio.run(main())

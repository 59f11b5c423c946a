"""A spool file that is damaged, before the agent starts or under its feet: kept, said, and collecting goes on."""

import asyncio
import contextlib
import json
import secrets
from pathlib import Path

import paho.mqtt.publish as publish
import pytest

from analytics.account import fetch
from edge_agent.spool_file import read_status
from proof.stack import Stack
from telemetry.errors import FieldlineError
from tests.commands import fieldline
from tests.pipeline import make_stack, until

MESSAGES = 400


async def send(stack: Stack, first: int, count: int) -> None:
    """Publish messages of one reading each, until the broker has them."""
    messages = [
        {"topic": "devices/d/telemetry", "payload": json.dumps({"n": n, "text": secrets.token_hex(1000)}), "qos": 1}
        for n in range(first, first + count)
    ]
    await asyncio.to_thread(publish.multiple, messages, "127.0.0.1", stack.ports.mqtt)


def overwrite(file: Path, start: int, stop: int) -> None:
    """Garbage in place, without a new length, as a worn SD card gives it."""
    assert start < stop
    with file.open("r+b") as spool:
        spool.seek(start)
        spool.write(b"\xa5" * (stop - start))


def waiting(stack: Stack) -> int:
    return read_status(stack.directory / "spool").records


def begun(spool: Path) -> bool:
    with contextlib.suppress(FieldlineError):
        return bool(read_status(spool).epoch)
    return False


async def fill(stack: Stack) -> str:
    """A spool in which messages wait in 20 commits or more, written to the database and closed; its epoch."""
    for first in range(0, MESSAGES, MESSAGES // 20):
        await send(stack, first, MESSAGES // 20)
        end = first + MESSAGES // 20
        await until(lambda end=end: waiting(stack) == 2 * end, "all are in the spool")
    epoch = read_status(stack.directory / "spool").epoch
    await stack.programs["edge"].stop()
    return epoch


@pytest.mark.parametrize("where", ["the header", "everything but the header"])
def test_a_database_that_cannot_be_read_at_the_start_is_kept_and_a_new_epoch_begins(where: str, tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running(["device-broker", "edge"]):
            epoch = await fill(stack)
            file = tmp_path / "spool" / "spool.db"
            size = file.stat().st_size
            overwrite(file, *((0, 100) if where == "the header" else (100, size)))
            await stack.start("edge")
            (kept,) = (tmp_path / "spool").glob("corrupt-*/spool.db")
            assert kept.stat().st_size == size
            assert read_status(tmp_path / "spool").epoch != epoch
            assert "is damaged" in stack.programs["edge"].tail()
            await send(stack, 0, 10)
            await until(lambda: waiting(stack) == 20, "the new spool collects")

    asyncio.run(main())


def test_a_database_damaged_while_the_agent_runs_is_kept_and_what_can_be_read_is_delivered(tmp_path: Path) -> None:
    """Found when the uplink reads what waits. Other devices' messages go through all the same."""

    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running(["device-broker", "clickhouse", "edge"]):
            epoch = await fill(stack)
            file = tmp_path / "spool" / "spool.db"
            size = file.stat().st_size
            await stack.start("edge")
            overwrite(file, size // 2, size * 3 // 4)
            await stack.start("trunk-broker")
            await stack.start("ingest")
            spool = tmp_path / "spool"
            await until(lambda: any(spool.glob("corrupt-*/spool.db")), "it is kept")
            await until(lambda: begun(spool), "a new spool is made")
            assert read_status(spool).epoch != epoch
            await send(stack, MESSAGES, 10)
            await until(lambda: read_status(spool).mark == 20, "all is confirmed")
            await until(lambda: any(spool.glob("corrupt-*/delivered")), "what can be read is delivered")
            assert stack.programs["edge"].restarts == 0
            said = stack.programs["edge"].tail()
            assert "Traceback" not in said, said
            old, new = sorted(await asyncio.to_thread(fetch, stack.client()), key=lambda row: row.epoch != epoch)
            assert (new.stored, new.missing, new.duplicates) == (20, 0, 0)
            assert (old.epoch, old.committed, old.missing, old.duplicates) == (epoch, 2 * MESSAGES, 0, 0)
            assert 0 < old.losses < old.committed, "a quarter of the pages, and what depends on them; not the rest"
            assert old.stored + old.losses == old.committed
            view = await asyncio.to_thread(fieldline, "edge", "spool", "-c", stack.gateway_config)
            assert f"{2 * MESSAGES} records behind seq 0 of epoch {epoch}" in view.out, view
            assert "delivered" in view.out

    asyncio.run(main())

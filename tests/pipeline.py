"""The whole pipeline for tests: the demo's stack on free ports, with Mosquitto as device broker, and a fleet."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from proof.account import Account, Totals
from proof.demo import close_books, fleet_command, sent
from proof.ports import free_ports
from proof.stack import Stack, mosquitto, mosquitto_broker, read_report
from proof.supervisor import Program

SAMPLE = Path(__file__).parent.parent / "data" / "la_haute_borne" / "2015-03.csv"


def make_stack(
    directory: Path, gateway_toml: str = "", mqtt_port: int | None = None, *, ingest_toml: str = ""
) -> Stack:
    """A stack with Mosquitto as device broker. mqtt_port: where the agent looks for it, if not directly."""
    program = mosquitto()
    assert program is not None, "install mosquitto (tests/install-tools)"
    ports = free_ports()
    broker = mosquitto_broker(program, ports.mqtt, directory)
    stack = Stack(directory, ports, broker, gateway_toml=gateway_toml, ingest_toml=ingest_toml)
    if mqtt_port is not None:
        text = stack.gateway_config.read_text()
        stack.gateway_config.write_text(text.replace(f"port = {ports.mqtt}\n", f"port = {mqtt_port}\n"))
    return stack


def add_fleet(stack: Stack, *options: str) -> Program:
    """A fleet against the stack; journal and report are in its directory."""
    command = fleet_command(stack.ports, stack.directory / "fleet.json")
    command += ["--journal", str(stack.directory / "journal.jsonl"), *options]
    return stack.add("fleet", command, restart=False)


async def until(condition: Callable[[], bool], what: str, seconds_max: float = 60.0) -> None:
    """Poll a condition (called in a thread); fails with `what` after seconds_max."""
    try:
        async with asyncio.timeout(seconds_max):
            while not await asyncio.to_thread(condition):
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(f"not within {seconds_max:g} s: {what}") from None


def acked(stack: Stack) -> int:
    """Messages acknowledged to devices so far."""
    return read_report(stack.directory / "fleet.json").get("messages_acked", 0)


async def ended(program: Program, seconds_max: float = 90.0) -> int:
    """Wait for a program that ends by itself; its exit status."""
    await until(lambda: not program.is_running, f"{program.name} ends", seconds_max)
    assert program.process is not None
    return program.process.returncode


async def books(stack: Stack) -> Account:
    """Close the books of a stack that started empty."""
    client = stack.client()
    try:
        return await close_books(client, sent(read_report(stack.directory / "fleet.json")), Totals())
    finally:
        client.close()


@contextlib.asynccontextmanager
async def fleet_running(stack: Stack, *options: str) -> AsyncIterator[Program]:
    """The fleet while the block runs; stopped at its end."""
    fleet = add_fleet(stack, *options)
    fleet.start()
    try:
        yield fleet
    finally:
        await fleet.stop()

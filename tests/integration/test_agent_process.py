"""The edge agent as a process: how it starts, what it says while it runs, and how it ends.

It runs in front of a real Mosquitto with a real fleet; there is no trunk, so everything stays in the spool,
where the tests can count it (tests/gateway.py).
"""

import asyncio
import json
import random
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import paho.mqtt.publish as publish
import pytest

from edge_agent.health import read_report
from edge_agent.spool_file import read_status
from proof.stack import Stack
from tests import reference
from tests.brokers import HOST, wait_until
from tests.commands import Done, command, fieldline, plain_environment
from tests.gateway import spooled
from tests.pipeline import acked, fleet_running, make_stack, until

UNSHARE = shutil.which("unshare")


class Agent:
    """`fieldline edge run` on a config file; what it prints goes into a file beside it."""

    def __init__(self, config: Path, *prefix: str) -> None:
        self.config = config
        self.log = config.with_suffix(".log")
        with self.log.open("ab") as out:
            self.process = subprocess.Popen(
                [*prefix, *command("edge", "run", "-c", config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=plain_environment(),
            )

    @property
    def said(self) -> str:
        return self.log.read_text()

    def runs(self) -> bool:
        """It has written its report. Fails the test when it has ended."""
        assert self.process.poll() is None, self.said
        report = read_report(self.config.parent / "spool")
        return report is not None and report.pid == self.process.pid

    def serves(self) -> bool:
        """Devices can reach it over both protocols."""
        report = read_report(self.config.parent / "spool") if self.runs() else None
        return report is not None and report.connected["mqtt"] and report.connected["coap"]

    def ends(self, *signals: signal.Signals) -> None:
        """These signals end it, well and with no word of alarm."""
        for number in signals:
            self.process.send_signal(number)
        assert self.process.wait(20) == 0, self.said
        assert "Traceback" not in self.said, self.said
        assert "ERROR" not in self.said, self.said
        assert self.said.endswith("The agent has stopped; the spool keeps what was not confirmed.\n")


@contextmanager
def agent(config: Path, *prefix: str) -> Iterator[Agent]:
    running = Agent(config, *prefix)
    try:
        yield running
    finally:
        if running.process.poll() is None:
            running.process.kill()
            running.process.wait()


def config(tmp_path: Path, more: str = "[coap]\nbind = '127.0.0.1'\nport = 5683", gateway: str = "g") -> Path:
    """A config of an agent whose uplink goes nowhere."""
    path = tmp_path / "gateway.toml"
    path.write_text(f'gateway = "{gateway}"\n{more}\n[uplink]\nport = 9\n')
    return path


@pytest.mark.parametrize(
    "signals",
    [[signal.SIGTERM], [signal.SIGINT, signal.SIGTERM, signal.SIGINT]],
    ids=["SIGTERM", "SIGINT and more"],
)
def test_a_signal_ends_it_while_messages_flow_and_nothing_is_lost_or_double(
    signals: list[signal.Signals], tmp_path: Path
) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running(["device-broker"]):
            with agent(stack.gateway_config) as first:
                await until(first.serves, "the agent serves")
                async with fleet_running(stack, "--devices", "20", "--rate", "20", "--coap-share", "0.2") as fleet:
                    await until(lambda: acked(stack) >= 200, "messages flow")
                    await asyncio.to_thread(first.ends, *signals)
                    with agent(stack.gateway_config) as second:
                        await until(second.serves, "the next one serves")
                        before = acked(stack)
                        await until(lambda: acked(stack) >= before + 100, "messages flow again")
                        assert await fleet.stop() == 0, fleet.tail()
                        await until(partial(holds, stack), "all that was acknowledged is in the spool")
                        await asyncio.to_thread(second.ends, signal.SIGTERM)
            readings, dead = spooled(tmp_path / "spool")
            journal, _ = reference.journal(tmp_path / "journal.jsonl")
            assert readings == journal
            assert dead == []

    asyncio.run(main())


def holds(stack: Stack) -> bool:
    journal, _ = reference.journal(stack.directory / "journal.jsonl")
    return read_status(stack.directory / "spool").records >= journal.total()


def test_its_spool_can_be_looked_at_while_it_runs_and_after(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)

        async def look(*options: str) -> Done:
            return await asyncio.to_thread(fieldline, "edge", "spool", "-c", stack.gateway_config, *options)

        before = await look()
        assert before.status == 1
        assert "there is no spool in" in before.err
        async with stack.running(["device-broker"]):
            with agent(stack.gateway_config) as running:
                await until(running.serves, "the agent serves")
                empty = await look()
                assert "\nwaiting    0 records\n" in empty.out
                assert "oldest" not in empty.out
                messages = [{"topic": "devices/d/telemetry", "payload": json.dumps({"a": n}), "qos": 1} for n in "123"]
                await asyncio.to_thread(publish.multiple, messages, HOST, stack.ports.mqtt)
                await until(lambda: read_status(tmp_path / "spool").records == 3, "three records are waiting")
                text = (await look()).out
                for line in (
                    "gateway    demo-gateway\n",
                    "receipt    up to seq 0: ",
                    "\nlast seq   3\n",
                    "\nwaiting    3 records\n",
                    "\noldest     ",
                    f"\nagent      runs as process {running.process.pid}\n",
                    f"  mqtt     MQTT 127.0.0.1:{stack.ports.mqtt}: connected",
                    f"  coap     CoAP: listening on 127.0.0.1 port {stack.ports.coap}",
                    "refuses connections. Check that it runs",
                ):
                    assert line in text
                told = json.loads((await look("--json")).out)
                assert (told["records"], told["last_seq"], told["mark"], told["lost"]) == (3, 3, 0, 0)
                assert told["agent"]["connected"] == {"mqtt": True, "coap": True, "uplink": False}
                await asyncio.to_thread(running.ends, signal.SIGTERM)
            after = await look()
            assert "\nwaiting    3 records\n" in after.out
            assert after.out.endswith("agent      is not running\n")
            assert json.loads((await look("--json")).out)["agent"] is None

    asyncio.run(main())


def has_namespaces() -> bool:
    return (
        UNSHARE is not None
        and subprocess.run([UNSHARE, "-rn", "true"], capture_output=True, check=False).returncode == 0
    )


@pytest.mark.skipif(not has_namespaces(), reason="the machine lets nobody make a network namespace")
def test_it_starts_on_a_machine_without_any_network(tmp_path: Path) -> None:
    """Not even a loopback interface that is up."""
    path = config(tmp_path, "[mqtt]\nhost = 'broker.example'\n[coap]")
    with agent(path, str(UNSHARE), "-rn") as running:
        wait_until(running.runs, "the agent runs")
        listens = "  coap     CoAP: listening on 0.0.0.0 port 5683"
        wait_until(lambda: listens in fieldline("edge", "spool", "-c", path).out, "it listens for CoAP")
        assert "broker.example" in fieldline("edge", "spool", "-c", path).out
        running.ends(signal.SIGTERM)


def test_a_second_agent_on_the_same_spool_is_told(tmp_path: Path) -> None:
    path = config(tmp_path, "[mqtt]\nport = 9")
    with agent(path) as first:
        wait_until(first.runs, "the agent runs")
        other = tmp_path / "other.toml"
        other.write_text(path.read_text().replace('"g"', '"h"'))
        for second in (path, other):
            told = fieldline("edge", "run", "-c", second)
            assert told.status == 1
            assert told.err == f"fieldline: another agent is already running on the spool in {tmp_path}/spool\n"
        assert first.runs()
        first.ends(signal.SIGTERM)
    told = fieldline("edge", "run", "-c", other)
    assert told.status == 1
    assert "belongs to gateway 'g', the config says 'h'" in told.err
    assert len(told.err.splitlines()) == 1


def test_a_taken_coap_port_keeps_it_from_starting(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running(["device-broker", "edge"]):
            other = config(tmp_path, f"spool.path = 'other'\n[coap]\nbind = '{HOST}'\nport = {stack.ports.coap}")
            told = await asyncio.to_thread(fieldline, "edge", "run", "-c", other)
            assert told.status == 1
            sentence = told.err.splitlines()[-1]
            assert sentence.startswith("fieldline: ")
            assert str(stack.ports.coap) in sentence

    asyncio.run(main())


def test_a_full_spool_is_said_and_ends_and_loses_nothing(tmp_path: Path) -> None:
    """It takes no more, and says so; it can be stopped; with more room the rest comes, once."""
    chance = random.Random(1)
    payloads = [b"\xff" + chance.randbytes(150_000) for _ in range(24)]

    async def main() -> None:
        stack = make_stack(tmp_path)
        path = stack.gateway_config
        small = path.read_text().replace("[mqtt]\n", "[mqtt]\nchunk_bytes_max = 262_144\n")
        path.write_text(f"{small}\n[spool]\nbytes_max = 2_097_152\n")
        async with stack.running(["device-broker"]):
            with agent(path) as running:
                await until(running.serves, "the agent serves")
                messages = [{"topic": "devices/d/telemetry", "payload": payload, "qos": 1} for payload in payloads]
                await asyncio.to_thread(publish.multiple, messages, HOST, stack.ports.mqtt)
                look = partial(fieldline, "edge", "spool", "-c", path)
                await until(lambda: "The spool is full" in look().out, "it says that the spool is full")
                assert "raise spool.bytes_max" in running.said
                assert 0 < read_status(tmp_path / "spool").records < len(payloads)
                running.process.send_signal(signal.SIGTERM)
                assert await asyncio.to_thread(running.process.wait, 20) == 0
                assert "Traceback" not in running.said
            path.write_text(path.read_text().replace("2_097_152", "100_000_000"))
            with agent(path) as running:
                await until(lambda: read_status(tmp_path / "spool").records >= len(payloads), "the rest has come")
                await asyncio.to_thread(running.process.send_signal, signal.SIGTERM)
                assert await asyncio.to_thread(running.process.wait, 20) == 0
            _, dead = spooled(tmp_path / "spool")
            assert [letter.raw for letter in dead] == payloads, "each once, and in order"

    asyncio.run(main())


def test_a_killed_agent_does_not_count_as_running(tmp_path: Path) -> None:
    path = config(tmp_path, "[mqtt]\nport = 9")
    with agent(path) as running:
        wait_until(running.runs, "the agent runs")
        running.process.kill()
        running.process.wait()
        assert read_report(tmp_path / "spool") is None
        assert "agent      is not running" in fieldline("edge", "spool", "-c", path).out
    with agent(path) as running:
        wait_until(running.runs, "its lock is free at once")
        running.ends(signal.SIGTERM)

"""The turbine and the meter as programs of their own, in front of a real broker and a real agent.

They run from a copy of their folder alone, behind an import hook that refuses every package of ours and every
library that a gateway or the cloud needs: what a firmware author would take along is all they have.
"""

import asyncio
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from edge_agent.spool_file import read_status
from firmware_stubs.synthetic import POISON
from firmware_stubs.turbine import BACKLOG_MAX, Turbine
from proof.ports import free_port
from proof.stack import Stack, read_report
from tests import reference
from tests.brokers import HOST
from tests.gateway import spooled
from tests.pipeline import SAMPLE, add_fleet, ended, make_stack, until
from tests.proxy import Proxy
from tests.reference import Value

ROOT = Path(__file__).parents[2]
STUBS = ROOT / "firmware_stubs"
GUARD = """
import importlib.abc, runpy, sys

class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        if top not in sys.stdlib_module_names and top not in {allowed!r}:
            raise ImportError(name + " is not on this device")

sys.meta_path.insert(0, Guard())
sys.path.insert(0, {folder!r})
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
TURBINE, METER = "firmware_stubs.turbine", "firmware_stubs.meter"


@pytest.fixture
def device(tmp_path: Path) -> Callable[..., list[str]]:
    """The command of a device's program, with the libraries it may have."""
    shutil.copytree(STUBS, tmp_path / "device" / "firmware_stubs", ignore=shutil.ignore_patterns("__pycache__"))

    def command(module: str, library: str, *options: str) -> list[str]:
        allowed = {"firmware_stubs", library, *(["aiocoap_defaults"] if library == "aiocoap" else [])}
        guard = GUARD.format(allowed=allowed, folder=str(tmp_path / "device"))
        return [sys.executable, "-I", "-c", guard, module, *options]

    return command


@contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            if process.poll() is None:
                process.kill()


async def run(command: list[str]) -> str:
    """What it printed; it must end well."""
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return str(done.stdout)


def readings(stack: Stack) -> Counter[Value]:
    return spooled(stack.directory / "spool")[0]


def recorded(device: str, rows: int) -> Counter[Value]:
    """The readings in a device's first rows of the sample."""
    of_device = [value for value in reference.multiset(SAMPLE).elements() if value[0] == device]
    times = sorted({value[2] for value in of_device})[:rows]
    return Counter(value for value in of_device if value[2] in times)


def test_the_guard_guards(device: Callable[..., list[str]], tmp_path: Path) -> None:
    """Without this the tests below would prove nothing."""
    for name in ("telemetry.errors", "edge_agent.run", "pydantic", "typer", "msgspec"):
        (tmp_path / "device" / "firmware_stubs" / "probe.py").write_text(f"import {name}\n")
        done = subprocess.run(
            device("firmware_stubs.probe", "paho"), capture_output=True, text=True, timeout=30, check=False
        )
        assert "is not on this device" in done.stderr


def test_both_programs_readings_land_in_the_spool(device: Callable[..., list[str]], tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        mqtt, coap = (f"127.0.0.1:{port}" for port in (stack.ports.mqtt, stack.ports.coap))
        async with stack.running(["device-broker", "edge"]):
            replayed = device(TURBINE, "paho", "--broker", mqtt, "--device", "R80711", "--csv", str(SAMPLE))
            said = await asyncio.gather(
                run([*replayed, "--speed", "1e9", "--count", "40"]),
                run(device(TURBINE, "paho", "--broker", mqtt, "--device", "T2", "--every-s", "0.01", "--count", "20")),
                run(device(METER, "aiocoap", "--gateway", coap, "--device", "m 1%", "--every-s", "0", "--count", "30")),
            )
            assert list(said) == [
                "R80711: measured 40, confirmed 40, waiting 0, dropped 0\n",
                "T2: measured 20, confirmed 20, waiting 0, dropped 0\n",
                "m 1%: taken 30, refused 0\n",
            ]
            expected = recorded("R80711", 40)
            total = expected.total() + 20 * 2 + 30 * 2
            await until(lambda: read_status(tmp_path / "spool").records >= total, "all is in the spool")
            held = readings(stack)
            assert held.total() == total, "and nothing twice"
            assert Counter({value: n for value, n in held.items() if value[0] == "R80711"}) == expected
            kinds = Counter((value[0], value[1]) for value in held.elements() if value[0] != "R80711")
            assert kinds == {("T2", "Ws_avg"): 20, ("T2", "P_avg"): 20, ("m 1%", "energy"): 30, ("m 1%", "voltage"): 30}
            now_ms = time.time() * 1000
            assert all(abs(at - now_ms) < 600_000 for name, _, at, _ in held if name != "R80711"), "the device's time"
            report = await run(
                [sys.executable, "-m", "fieldline", "edge", "spool", "--json", "-c", str(stack.gateway_config)]
            )
            assert json.loads(report)["records"] == total

    asyncio.run(main())


def test_a_turbine_without_a_broker_keeps_what_it_measures_until_one_comes(
    device: Callable[..., list[str]], tmp_path: Path
) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running(["device-broker", "edge"]):
            with Proxy() as proxy, socket.create_server((HOST, 0)) as mute:
                proxy.target = mute.getsockname()[1]
                broker = f"{HOST}:{proxy.port}"
                command = device(TURBINE, "paho", "--broker", broker, "--every-s", "0.001", "--count", "300")
                with running(command) as process:
                    connection, _ = await asyncio.to_thread(mute.accept)
                    with connection:
                        assert await asyncio.to_thread(connection.recv, 1) == b"\x10", "a CONNECT, never answered"
                    proxy.target = stack.ports.mqtt
                    proxy.cut()
                    said = await asyncio.to_thread(process.communicate, timeout=60)
            assert said == ("R80711: measured 300, confirmed 300, waiting 0, dropped 0\n", "")
            await until(lambda: readings(stack).total() >= 600, "all is in the spool")
            assert readings(stack).total() == 600

    asyncio.run(main())


def test_a_turbines_backlog_is_bounded() -> None:
    turbine = Turbine((HOST, free_port()), "T")
    for number in range(BACKLOG_MAX + 200):
        turbine.measure({"a": 1.0}, number)
    assert (turbine.waiting, turbine.dropped, turbine.confirmed) == (BACKLOG_MAX, 200, 0)
    turbine.stop(seconds_max=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_both_programs_with_their_books_closed(
    number: signal.Signals, device: Callable[..., list[str]], tmp_path: Path
) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        mqtt, coap = (f"{HOST}:{port}" for port in (stack.ports.mqtt, stack.ports.coap))
        async with stack.running(["device-broker", "edge"]):
            turbine = device(TURBINE, "paho", "--broker", mqtt, "--device", "T", "--every-s", "0.005")
            meter = device(METER, "aiocoap", "--gateway", coap, "--device", "m", "--every-s", "0.005")
            with running(turbine) as one, running(meter) as other:
                await until(lambda: len({value[0] for value in readings(stack)}) == 2, "both have sent")
                one.send_signal(number)
                other.send_signal(number)
                said = [await asyncio.to_thread(process.communicate, timeout=60) for process in (one, other)]
            assert (one.returncode, other.returncode) == (0, 0), said
            assert (said[0][1], said[1][1]) == ("", "")
            confirmed = re.fullmatch(r"T: measured (\d+), confirmed \1, waiting 0, dropped 0\n", said[0][0])
            taken = re.fullmatch(r"m: taken (\d+), refused 0\n", said[1][0])
            assert confirmed
            assert taken
            await until(lambda: of_device(stack, "T") >= 2 * int(confirmed[1]), "the turbine's are in the spool")
            assert of_device(stack, "T") == 2 * int(confirmed[1])
            # the meter may be stopped between the agent's commit and its answer
            assert of_device(stack, "m") in {2 * int(taken[1]), 2 * int(taken[1]) + 2}

    asyncio.run(main())


def at_least(stack: Stack, device: str, count: int) -> bool:
    return of_device(stack, device) >= count


def of_device(stack: Stack, device: str) -> int:
    return sum(count for value, count in readings(stack).items() if value[0] == device)


def test_a_meter_survives_an_agent_that_is_killed(device: Callable[..., list[str]], tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        command = device(METER, "aiocoap", "--gateway", f"{HOST}:{stack.ports.coap}", "--every-s", "0.01")
        async with stack.running(["device-broker", "edge"]):
            with running([*command, "--count", "120"]) as process:
                for count in (40, 100):
                    await until(partial(at_least, stack, "meter-1", count), f"{count} readings are in the spool")
                    stack.programs["edge"].kill()
                said = await asyncio.to_thread(process.communicate, timeout=90)
            assert said == ("meter-1: taken 120, refused 0\n", "")
            assert stack.programs["edge"].restarts == 2
            # a reading whose answer the kill cut off is posted anew, and may be there twice (the README says so)
            assert of_device(stack, "meter-1") in {240, 242, 244}
            assert len(readings(stack)) == 240

    asyncio.run(main())


def test_broken_messages_become_dead_letters_and_the_valid_ones_beside_them_get_through(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path)
        async with stack.running(["device-broker", "edge"]):
            fleet = add_fleet(stack, "--devices", "8", "--rate", "30", "--poison", "0.3", "--seconds", "3")
            fleet.start()
            assert await ended(fleet) == 0, fleet.tail()
            counts = read_report(tmp_path / "fleet.json")
            journal, poison = reference.journal(tmp_path / "journal.jsonl")
            total = journal.total() + poison
            await until(lambda: read_status(tmp_path / "spool").records >= total, "all is in the spool")
            held, dead = spooled(tmp_path / "spool")
            assert held == journal
            assert len(dead) == poison == counts["poison_acked"] > 50
            assert {letter.raw for letter in dead} == set(POISON)
            assert all(len(letter.reason) > 10 for letter in dead)
            assert {letter.source.split("/")[0] for letter in dead} == {"devices", "telemetry"}, "over MQTT and CoAP"
            over_coap = [letter for letter in dead if letter.source.startswith("telemetry/")]
            assert counts["refused"] == len(over_coap) > 0
            assert counts["messages_sent"] == counts["messages_acked"] + counts["rejected"]

    asyncio.run(main())


@pytest.mark.parametrize(
    ("module", "options", "said"),
    [
        (TURBINE, ["--broker", "nowhere"], "'nowhere' must be HOST:PORT"),
        (TURBINE, ["--broker", "127.0.0.1:9", "--csv", "none.csv"], "No such file or directory: 'none.csv'"),
        (METER, ["--every-s", "soon"], "invalid float value: 'soon'"),
    ],
)
def test_wrong_options_are_said(module: str, options: list[str], said: str) -> None:
    command = [sys.executable, "-m", module, *options]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode != 0
    assert said in done.stderr
    assert "Traceback" not in done.stderr

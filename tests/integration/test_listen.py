"""`edge listen` with a real broker: what it shows, and that an agent beside it does not notice."""

import asyncio
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.publish as publish
import pytest

from edge_agent.config import Coap, GatewayConfig, Mqtt
from edge_agent.listen import Options, run
from edge_agent.spool_file import read_status
from proof.stack import Stack
from telemetry.errors import FieldlineError
from tests import reference
from tests.brokers import HOST, free_port, mosquitto, wait_until
from tests.commands import command, plain_environment
from tests.gateway import spooled
from tests.pipeline import acked, fleet_running, make_stack, until


class Listener:
    """`fieldline edge listen` as a process; what it prints goes into files."""

    def __init__(self, config: Path, name: str) -> None:
        self.out, self.err = config.with_name(f"{name}.out"), config.with_name(f"{name}.err")
        with self.out.open("wb") as out, self.err.open("wb") as err:
            self.process = subprocess.Popen(
                command("edge", "listen", "-c", config),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=plain_environment(),
            )

    def shows(self, text: str) -> bool:
        assert self.process.poll() is None, self.err.read_text()
        return text in self.out.read_text()


@contextmanager
def listener(config: Path, name: str = "listener") -> Iterator[Listener]:
    running = Listener(config, name)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.wait()


def test_the_agent_beside_it_is_not_disturbed(tmp_path: Path) -> None:
    """Its subscription is a shared one: whoever joined it would take messages. Listeners come, go and are killed."""

    async def main() -> None:
        stack = make_stack(tmp_path)
        path = stack.gateway_config
        path.write_text(
            path.read_text().replace("[mqtt]\n", '[mqtt]\ntopics = ["$share/agents/devices/+/telemetry"]\n')
        )
        async with stack.running(["device-broker", "edge"]):
            async with fleet_running(stack, "--devices", "20", "--rate", "10", "--coap-share", "0") as fleet:
                with listener(path) as first, listener(path, "killed") as killed:
                    await until(lambda: first.shows("time of the device"), "it shows readings")
                    await until(lambda: killed.shows("time of the device"), "so does the other")
                    killed.process.kill()
                    before = acked(stack)
                    await until(lambda: acked(stack) >= before + 200, "messages flow")
                    first.process.send_signal(signal.SIGINT)
                    assert await asyncio.to_thread(first.process.wait, 20) == 0
                    shown = first.out.read_text().splitlines()
                before = acked(stack)
                await until(lambda: acked(stack) >= before + 100, "messages flow on")
                assert await fleet.stop() == 0, fleet.tail()
            await until(lambda: holds(stack), "all that was acknowledged is in the spool")
        journal, _ = reference.journal(tmp_path / "journal.jsonl")
        readings, dead = spooled(tmp_path / "spool")
        assert (readings, dead) == (journal, [])
        said = stack.programs["edge"].log_file.read_text()
        assert said.count(f"The MQTT broker {HOST}:{stack.ports.mqtt}: connected as fieldline-demo-gateway,") == 1
        assert "WARNING The MQTT broker" not in said
        assert shown[0] == f"Listening to devices/+/telemetry at {HOST}:{stack.ports.mqtt}; Ctrl-C ends it."
        assert shown[-1].endswith(" readings, 0 dead letters.")
        assert int(shown[-1].split()[0]) > 100  # of at least 200: by QoS 0, and the last ones were on their way
        assert first.err.read_text() == ""

    asyncio.run(main())


def holds(stack: Stack) -> bool:
    journal, _ = reference.journal(stack.directory / "journal.jsonl")
    return read_status(stack.directory / "spool").records >= journal.total()


def test_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    with mosquitto() as broker:
        topics = {"devices/a/telemetry": b'{"power": 1.5}', "devices/b/telemetry": b"{", "x/\u202e": b"1"}
        for topic, payload in topics.items():
            publish.single(topic, payload, qos=1, retain=True, hostname=HOST, port=broker.port)
        config = GatewayConfig(gateway="g", mqtt=Mqtt(port=broker.port))
        run(config, Options(("devices/#", "x/+"), seconds=20, messages=3))
        shown = capsys.readouterr().out
        for line in (
            "  devices/a/telemetry  14 bytes, retained\n    a  power = 1.5  at ",
            "  devices/b/telemetry  1 bytes, retained\n    dead letter: the payload is not valid JSON",
            "\n    b'{'\n",
            r"  'x/\u202e'  1 bytes, retained",
            r"    dead letter: topic 'x/\u202e' matches no mapping in gateway.toml",
        ):
            assert line in shown
        assert shown.endswith("\n3 messages: 1 readings, 2 dead letters.\n")
        run(config, Options(seconds=0.01))
        assert capsys.readouterr().out.splitlines()[0].startswith("Listening to devices/+/telemetry at ")


def test_why_it_cannot_listen(tmp_path: Path) -> None:
    with pytest.raises(FieldlineError, match="there is no section"):
        run(GatewayConfig(gateway="g", coap=Coap()), Options())
    with pytest.raises(FieldlineError, match="a shared subscription would take messages from the agent"):
        run(GatewayConfig(gateway="g", mqtt=Mqtt()), Options(("$share/g/devices/+/telemetry",)))
    with pytest.raises(FieldlineError, match="refuses connections"):
        run(GatewayConfig(gateway="g", mqtt=Mqtt(port=free_port())), Options())
    with mosquitto(tmp_path, passwords={"u": "right"}) as broker:
        mqtt = Mqtt(port=broker.port, username="u", password="wrong")
        with pytest.raises(FieldlineError, match="username"):
            run(GatewayConfig(gateway="g", mqtt=mqtt), Options())


def test_a_broker_that_goes_away_is_said(tmp_path: Path) -> None:
    with mosquitto(tmp_path) as broker:
        config = tmp_path / "gateway.toml"
        config.write_text(f'gateway = "g"\nmqtt.port = {broker.port}\n')
        with listener(config) as running:
            wait_until(lambda: running.shows("Listening to"), "it listens")
            broker.kill()
            assert running.process.wait(20) == 1
            assert running.out.read_text().splitlines()[1:] == ["0 messages: 0 readings, 0 dead letters."]
            (sentence,) = running.err.read_text().splitlines()
            assert sentence.startswith(f"fieldline: The MQTT broker {HOST}:{broker.port}")

"""The embedded broker as a process, met by Mosquitto's clients and paho."""

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paho.mqtt.client as paho
import pytest

from proof.ports import free_port
from tests.brokers import HOST

ROOT = Path(__file__).resolve().parent.parent.parent
QUEUE = 20_000
SUB, PUB = shutil.which("mosquitto_sub"), shutil.which("mosquitto_pub")
needs_mosquitto = pytest.mark.skipif(SUB is None or PUB is None, reason="mosquitto-clients is not installed")


@contextmanager
def broker(port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "broker_bridge.embedded", "--port", str(port)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert f"listens on {HOST}:{port}" in process.stdout.readline()
            yield process
        finally:
            if process.poll() is None:
                process.kill()


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    chosen = free_port()
    with broker(chosen):
        yield chosen


def sub(port: int, *arguments: str) -> list[str]:
    assert SUB is not None
    return [SUB, "-h", HOST, "-p", str(port), "-q", "1", *arguments]


def run(command: list[str], **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(command, capture_output=True, timeout=60, check=False, **options)  # type: ignore[call-overload,no-any-return]


@needs_mosquitto
def test_a_900_kb_message_passes(port: int, tmp_path: Path) -> None:
    payload = bytes(range(256)) * 3516
    (tmp_path / "payload").write_bytes(payload)
    # retained, so that it does not matter who comes first
    done = run(
        [
            str(PUB),
            "-h",
            HOST,
            "-p",
            str(port),
            "-q",
            "1",
            "-r",
            "-t",
            "large",
            "-f",
            str(tmp_path / "payload"),
        ]
    )
    assert done.returncode == 0, done.stderr
    assert run(sub(port, "-t", "large", "-C", "1", "-N", "-W", "20")).stdout == payload


@needs_mosquitto
def test_an_offline_session_gets_its_queue(port: int) -> None:
    session = ["-t", "queue/+", "-c", "-i", "offline"]
    run(sub(port, *session, "-E"))  # subscribe and leave
    publisher = paho.Client(paho.CallbackAPIVersion.VERSION2)
    publisher.max_queued_messages_set(0)
    publisher.max_inflight_messages_set(100)
    publisher.connect(HOST, port)
    publisher.loop_start()
    sent = [publisher.publish("queue/a", f"{i:0100d}", 1) for i in range(QUEUE)]
    for message in sent:
        message.wait_for_publish(60)
    publisher.disconnect()
    publisher.loop_stop()
    got = run(sub(port, *session, "-C", str(QUEUE), "-W", "40")).stdout.split()
    assert [int(line) for line in got] == list(range(QUEUE))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_with_0_and_quietly(number: signal.Signals) -> None:
    port = free_port()
    with broker(port) as process, socket.create_connection((HOST, port)) as client:
        client.sendall(b"\x10\x0e\x00\x04MQTT\x04\x02\x00\x3c\x00\x02ab")
        assert client.recv(4) == b"\x20\x02\x00\x00"
        process.send_signal(number)
        out, errors = process.communicate(timeout=20)
    assert process.returncode == 0
    assert (out, errors) == ("", "")


def test_a_taken_port_is_a_sentence(port: int) -> None:
    done = run([sys.executable, "-m", "broker_bridge.embedded", "--port", str(port)], cwd=ROOT)
    assert done.returncode == 1
    assert b"another --port" in done.stderr
    assert done.stderr.count(b"\n") == 1

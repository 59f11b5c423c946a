"""Real MQTT brokers for tests: Mosquitto and the embedded iotcore, processes on free ports of 127.0.0.1.

    with mosquitto(tmp_path) as broker:      # or embedded()
        client.connect(broker.host, broker.port)
        broker.kill()                        # SIGKILL, as a crash does
        broker.restart()                     # same port; state is gone unless persistence=True

Import as `from tests.brokers import mosquitto`, with the repository's root on the path
(`python -m pytest` puts it there).
"""

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from proof.ports import free_port

HOST = "127.0.0.1"
START_S_MAX = 20.0
MOSQUITTO = shutil.which("mosquitto", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


def wait_until(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    """Poll `condition` until it holds; fails with `what` after `deadline_s` seconds."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.02)


async def eventually(condition: Callable[[], bool], what: str, deadline_s: float = 20.0) -> None:
    """`wait_until` for coroutines: the event loop runs on between the polls."""
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:g} s: {what}"
        await asyncio.sleep(0.01)


def listening(port: int) -> bool:
    """Whether something accepts connections on the port."""
    with suppress(OSError), socket.create_connection((HOST, port), timeout=1):
        return True
    return False


@dataclass
class Broker:
    """A broker process that can be killed and started again on the same port."""

    command: list[str]
    port: int
    log: Path
    host: str = HOST
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    def start(self) -> None:
        """Start the process and wait until it accepts connections."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        process = self.process
        wait_until(
            lambda: process.poll() is not None or listening(self.port),
            f"{self.command[0]} listens",
            START_S_MAX,
        )
        assert process.poll() is None, f"{self.command} ended:\n{self.log.read_text()}"

    def kill(self) -> None:
        """SIGKILL, as a crash or a power cut does."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM, and SIGKILL if that is not obeyed."""
        self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Kill if it runs, then start on the same port."""
        self.kill()
        self.start()

    def _end(self, number: signal.Signals) -> None:
        process, self.process = self.process, None
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(timeout=5)


@contextmanager
def _running(broker: Broker) -> Iterator[Broker]:
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@contextmanager
def mosquitto(
    folder: Path | None = None,
    *,
    port: int | None = None,
    inflight_max: int = 0,
    message_bytes_max: int = 0,
    persistence: bool = False,
    passwords: dict[str, str] | None = None,
    tls: "Authority | None" = None,
    extra: str = "",
) -> Iterator[Broker]:
    """Mosquitto with a config of its own in `folder` (default: a temporary one).

    inflight_max: QoS 1 messages on their way to one client, 0 for no limit. passwords: user -> password;
    without it anybody may connect. tls: serve the authority's certificate. extra: more config lines.
    """
    assert MOSQUITTO, "install mosquitto, for example with: apt-get install mosquitto"
    with tempfile.TemporaryDirectory() as temporary:
        home = folder or Path(temporary)
        port = port or free_port()
        lines = [
            f"listener {port} {HOST}",
            "max_queued_messages 0",
            f"max_inflight_messages {inflight_max}",
            f"message_size_limit {message_bytes_max}",
            f"allow_anonymous {'false' if passwords else 'true'}",
            f"persistence {'true' if persistence else 'false'}",
            f"persistence_location {home}/",
            "set_tcp_nodelay true",
            "user root",  # started by root it would become a user who cannot read the folder
        ]
        if passwords:
            lines.append(f"password_file {_password_file(home, passwords)}")
        if tls:
            lines += [f"cafile {tls.ca}", f"certfile {tls.cert}", f"keyfile {tls.key}"]
        config = home / f"mosquitto-{port}.conf"
        config.write_text("\n".join([*lines, extra, ""]))
        with _running(Broker([MOSQUITTO, "-c", str(config)], port, home / f"mosquitto-{port}.log")) as broker:
            yield broker


@contextmanager
def embedded(folder: Path | None = None, *, port: int | None = None) -> Iterator[Broker]:
    """The broker in the wheel `iotcore` (rumqttd); it keeps nothing over a restart."""
    port = port or free_port()
    command = [sys.executable, "-m", "broker_bridge.embedded", "--host", HOST, "--port", str(port)]
    with tempfile.TemporaryDirectory() as temporary:
        log = (folder or Path(temporary)) / f"embedded-{port}.log"
        with _running(Broker(command, port, log)) as broker:
            yield broker


def _password_file(home: Path, passwords: dict[str, str]) -> Path:
    path = home / "passwords"
    path.write_text("".join(f"{user}:{password}\n" for user, password in passwords.items()))
    tool = shutil.which("mosquitto_passwd")
    assert tool, "install mosquitto, for example with: apt-get install mosquitto"
    subprocess.run([tool, "-U", str(path)], check=True, capture_output=True)
    return path


@dataclass(frozen=True)
class Authority:
    """A certificate authority of the test's own and a server certificate for 127.0.0.1, as PEM files."""

    ca: Path
    cert: Path
    key: Path


def make_authority(folder: Path) -> Authority:
    """Make both with the openssl command line, valid for two days."""
    tool = shutil.which("openssl")
    assert tool, "install openssl"

    def run(*arguments: str) -> None:
        subprocess.run([tool, *arguments], check=True, capture_output=True, cwd=folder)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    run("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=Test CA")
    run("req", *new_key, "-keyout", "server.key", "-out", "server.csr", "-subj", "/CN=127.0.0.1")
    (folder / "server.ext").write_text("subjectAltName = IP:127.0.0.1\n")
    signing = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "server.ext")
    run("x509", "-req", "-in", "server.csr", *signing, "-out", "server.pem", "-days", "2")
    return Authority(folder / "ca.pem", folder / "server.pem", folder / "server.key")

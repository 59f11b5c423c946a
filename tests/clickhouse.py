"""A real ClickHouse engine for tests: the embedded server as a process on a free port of 127.0.0.1.

    with clickhouse(tmp_path / "ch") as server:
        client = connect(server.url)
        server.kill()                        # SIGKILL, as a crash does
        server.restart()                     # same directory, same port

Import as `from tests.clickhouse import clickhouse`, with the repository's root on the path
(`python -m pytest` puts it there).
"""

import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ingest.clickhouse.client import Client
from proof.ports import free_port
from tests.brokers import HOST, wait_until

ROOT = Path(__file__).resolve().parent.parent
START_S_MAX = 60.0
STOP_S_MAX = 30.0


@dataclass
class Server:
    """The server's process; `path` is its data directory, `module` what Python runs."""

    path: Path
    port: int
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    module: str = "ingest.clickhouse.server"

    @property
    def url(self) -> str:
        """The server's address, without a database."""
        return f"http://{HOST}:{self.port}"

    @property
    def log(self) -> Path:
        """What the process has printed, over all its lives."""
        return self.path.with_name(f"{self.path.name}.log")

    def start(self) -> None:
        """Start the process and wait until /ping answers."""
        command = [sys.executable, "-m", self.module]
        command += ["--path", str(self.path), "--port", str(self.port), *self.options]
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        self.process = process
        wait_until(lambda: process.poll() is not None or self.answers(), "ClickHouse answers", START_S_MAX)
        assert process.poll() is None, f"ClickHouse did not start:\n{self.log.read_text()}"

    def answers(self) -> bool:
        """Whether /ping says Ok."""
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
                f"{self.url}/ping", timeout=2
            ) as response:
                return bool(response.read().startswith(b"Ok."))
        except OSError:
            return False

    def kill(self) -> None:
        """SIGKILL."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """SIGTERM; returns the exit status."""
        return self._end(signal.SIGTERM)

    def restart(self) -> None:
        """Start again on the same directory and port, after `kill` or `stop`."""
        if self.process is not None:
            self.stop()
        self.start()

    def _end(self, how: signal.Signals) -> int:
        process, self.process = self.process, None
        if process is None:
            return 0
        process.send_signal(how)
        try:
            return process.wait(STOP_S_MAX)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


class StoppedClient:
    """A client that passes so many statements on and then stops its user, as a process is that is killed."""

    def __init__(self, client: Client, statements: int) -> None:
        self._client = client
        self.left = statements

    def command(self, *args: Any, **kwargs: Any) -> Any:
        """A statement. Raises KeyboardInterrupt."""
        if not self.left:
            raise KeyboardInterrupt
        self.left -= 1
        return self._client.command(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


@contextmanager
def clickhouse(path: Path, *options: str, module: str = Server.module) -> Iterator[Server]:
    """The server on `path`, which is created; `options` go to its command line. Stopped at the end."""
    server = Server(path, free_port(), options, module=module)
    try:
        server.start()
        yield server
    finally:
        server.stop()

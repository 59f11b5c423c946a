"""Runs programs as child processes and restarts what dies. Every child is stopped by its own process id.

A child writes to a log file of its own, gets its own session (Ctrl-C in the terminal reaches only the
supervisor, which then stops the children in order), and is ended by the kernel if the supervisor itself is
killed (Linux: PR_SET_PDEATHSIG): with SIGTERM, or with SIGKILL if it is a program that is not restarted. Such
a one is a fleet, which after a SIGTERM would wait for answers that nobody is left to give.
"""

import asyncio
import contextlib
import ctypes
import logging
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from telemetry.errors import FieldlineError

log = logging.getLogger(__name__)

STOP_S_MAX = 20.0
READY_S_MAX = 60.0
RESTART_S = 0.3
POLL_S = 0.05
PR_SET_PDEATHSIG = 1
STOPPING = (signal.SIGINT, signal.SIGTERM)

Probe = Callable[[], bool]


@dataclass(slots=True)
class Program:
    """One supervised program. `ready` tells when it can be used (None: at once)."""

    name: str
    command: Sequence[str]
    log_file: Path
    ready: Probe | None = None
    restart: bool = True
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    restarts: int = 0
    _wanted: bool = False

    def start(self) -> None:
        """Start the process; does not wait for it."""
        self._wanted = True
        prepare = partial(_prepare, os.getpid(), signal.SIGTERM if self.restart else signal.SIGKILL)
        with self.log_file.open("ab") as out, _signals_held_back():
            self.process = subprocess.Popen(  # noqa: S603 - our own programs
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=os.environ | {"PYTHONUNBUFFERED": "1"} | self.environment,
                preexec_fn=prepare,  # noqa: PLW1509 - only system calls; there are no other threads' locks
            )

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    async def until_ready(self) -> None:
        """Wait until `ready`. Raises FieldlineError with the log's last lines if it ends or takes too long."""
        deadline_s = time.monotonic() + READY_S_MAX
        while self.ready is not None and not self.ready():
            if not self.is_running and not self.restart:
                raise FieldlineError(f"{self.name} ended at once:\n{self.tail()}")
            if time.monotonic() > deadline_s:
                raise FieldlineError(f"{self.name} was not ready within {READY_S_MAX:.0f} s:\n{self.tail()}")
            await asyncio.sleep(POLL_S)

    def kill(self) -> None:
        """SIGKILL, as a power cut would; the supervisor restarts it."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it runs."""
        if self.process is not None and self.is_running:
            self.process.send_signal(number)

    async def stop(self, seconds_max: float = STOP_S_MAX) -> int | None:
        """SIGTERM and wait; SIGKILL when it takes too long. The exit status."""
        self._wanted = False
        if self.process is None:
            return None
        if self.is_running:
            self.process.send_signal(signal.SIGTERM)
            deadline_s = time.monotonic() + seconds_max
            while self.is_running:
                if time.monotonic() > deadline_s:
                    log.warning("%s did not stop within %.0f s and was killed.", self.name, seconds_max)
                    self.kill()
                await asyncio.sleep(POLL_S)
        return self.process.wait()

    async def watch(self) -> None:
        """Restart it whenever it dies, until it is stopped."""
        while True:
            await asyncio.sleep(POLL_S)
            if self._wanted and self.restart and not self.is_running:
                assert self.process is not None
                log.warning("%s ended (status %s), starting it again.", self.name, self.process.returncode)
                await asyncio.sleep(RESTART_S)
                if self._wanted:
                    self.restarts += 1
                    self.start()

    def tail(self, lines: int = 15) -> str:
        """The last lines of its log."""
        with contextlib.suppress(OSError):
            return "\n".join(self.log_file.read_text(errors="replace").splitlines()[-lines:])
        return ""


@contextlib.contextmanager
def _signals_held_back() -> Iterator[None]:
    """No SIGINT or SIGTERM meanwhile. Until a child has its own session, Ctrl-C reaches it too, and its copy of our
    handler would report that through our own wake-up pipe: we would see a second Ctrl-C.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _prepare(parent: int, number: signal.Signals) -> None:
    """In the child, before its program: forget our handlers and what was meant for us, and end with the parent."""
    for stopping in STOPPING:
        signal.signal(stopping, signal.SIG_IGN)
        signal.signal(stopping, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)
    if os.getppid() != parent:  # it was killed before it could be watched
        os._exit(1)


def tcp_listens(port: int, host: str = "127.0.0.1") -> Probe:
    """A probe: something accepts connections on the port."""

    def probe() -> bool:
        try:
            with socket.create_connection((host, port), timeout=0.5):
                return True
        except OSError:
            return False

    return probe

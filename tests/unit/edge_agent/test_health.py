"""What the agent says of itself: true while it lives, written only when it changes, and no claim of the dead."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import pytest

from broker_bridge.contract import Status
from edge_agent.health import FILE, Health, Report, read_report
from telemetry.columns import Columns
from tests.brokers import eventually
from tests.records import NEW_YEAR_MS, numbered
from tests.spool import opened


class StandingClock:
    """A clock that only the test moves."""

    now = NEW_YEAR_MS

    def now_ms(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        return self.now / 1000


@dataclass
class Collector:
    """A part whose state the test sets."""

    connected: bool = False
    said: str = "not connected yet"

    def state(self) -> str:
        return self.said


@dataclass
class Rig:
    path: Path
    mqtt: Collector = field(default_factory=Collector)
    trouble: str = ""
    clock: StandingClock = field(default_factory=StandingClock)

    def health(self) -> Health:
        return Health(self.path, self.clock, {"mqtt": self.mqtt}, lambda: self.trouble)

    def report(self) -> Report | None:
        return read_report(self.path)


@asynccontextmanager
async def running(it: Rig) -> AsyncIterator[None]:
    task = asyncio.create_task(it.health().run())
    try:
        yield
        assert not task.done()
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def test_a_status_is_what_the_spool_holds(tmp_path: Path) -> None:
    it = Rig(tmp_path, trouble="The spool is full.")
    with opened(tmp_path / "spool") as spool:
        empty = it.health().status(spool)
        assert (empty.mark, empty.last_seq, empty.spool_records, empty.spool_oldest_at) == (0, 0, 0, 0)
        spool.append(numbered(1, 30))
        spool.trim(4)
        held = spool.status()
        status = it.health().status(spool)
    assert status == Status(
        epoch=spool.epoch,
        agent_version=metadata.version("fieldline"),
        reported_at=NEW_YEAR_MS,
        mark=4,
        last_seq=30,
        spool_records=26,
        spool_bytes=held.bytes,
        spool_oldest_at=NEW_YEAR_MS + 1,
        collectors={"mqtt": "not connected yet", "spool": "The spool is full."},
    )
    assert Status.decode(status.encode()) == status


def test_a_reading_from_before_1970_does_not_spoil_the_status(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        made = numbered(1, 1)
        made.received_at[0] = -5
        spool.append(made)
        status = Rig(tmp_path).health().status(spool)
        assert Status.decode(status.encode()).spool_oldest_at == 0


def test_a_status_says_how_many_messages_were_ignored(tmp_path: Path) -> None:
    it = Rig(tmp_path)
    with opened(tmp_path / "spool") as spool:
        health = it.health()
        assert "ignored" not in health.status(spool).collectors
        health.ignored = lambda: 7
        assert health.status(spool).collectors["ignored"] == "7 messages since the start"


def test_a_status_says_how_many_readings_were_thinned_out(tmp_path: Path) -> None:
    with opened(tmp_path / "spool") as spool:
        health = Rig(tmp_path).health()
        assert health.status(spool).thinned == 0
        spool.append(numbered(1, 1), thinned=2)
        spool.append(Columns(), thinned=3)
    with opened(tmp_path / "spool") as spool:
        assert health.status(spool).thinned == 5
        assert spool.next_seq == 2


def test_the_file_follows_the_parts(tmp_path: Path) -> None:
    async def main() -> None:
        it = Rig(tmp_path)
        async with running(it):
            await eventually(lambda: it.report() is not None, "a report")
            assert it.report() == Report(os.getpid(), NEW_YEAR_MS, {"mqtt": False}, {"mqtt": "not connected yet"})
            it.mqtt.connected, it.mqtt.said = True, "connected"
            await eventually(lambda: (r := it.report()) is not None and r.connected["mqtt"], "it is connected")
            it.trouble = "The spool is full."
            await eventually(lambda: (r := it.report()) is not None and "spool" in r.states, "it is full")
            report = it.report()
            assert report is not None
            assert report.states == {"mqtt": "connected", "spool": "The spool is full."}

    asyncio.run(main())


def test_nothing_is_written_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A card in a gateway wears out by writing. Words alone, such as a counter in a sentence, are no change."""
    monkeypatch.setattr("edge_agent.health.LOOK_EVERY_S", 0.001)

    async def main() -> None:
        it = Rig(tmp_path)
        looked = 0

        class Counting(Collector):
            @property
            def connected(self) -> bool:
                nonlocal looked
                looked += 1
                return True

            @connected.setter
            def connected(self, value: bool) -> None: ...

        it.mqtt = Counting()
        async with running(it):
            await eventually(lambda: looked > 2, "it has looked")
            written = (tmp_path / FILE).stat()
            it.mqtt.said = "something else"
            await eventually(lambda: looked > 20, "it has looked on")
            after = (tmp_path / FILE).stat()
            assert (after.st_ino, after.st_mtime_ns) == (written.st_ino, written.st_mtime_ns)

    asyncio.run(main())


def test_a_disk_that_takes_no_file_does_not_end_the_agent(tmp_path: Path) -> None:
    async def main() -> None:
        it = Rig(tmp_path / "gone")
        async with running(it):
            await asyncio.sleep(0.05)  # time to fail
            (tmp_path / "gone").mkdir()
            it.mqtt.connected = True
            await eventually(lambda: it.report() is not None, "a report, once there is room")

    asyncio.run(main())


def test_a_dead_agent_s_report_is_no_report(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    (tmp_path / FILE).write_text(json.dumps({"pid": child.pid, "changed_at": 1, "connected": {}, "states": {}}))
    assert read_report(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "{}", '{"pid": "x", "changed_at": 1}', '{"pid": 1, "x": 1}'])
def test_a_file_that_is_no_report_is_none(tmp_path: Path, text: str) -> None:
    assert read_report(tmp_path) is None
    (tmp_path / FILE).write_text(text)
    assert read_report(tmp_path) is None

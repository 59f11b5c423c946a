"""What the agent says of itself: to the cloud as a status, to people on the gateway as a small file.

The file `agent.json` in the spool's directory says which parts are connected. It is written only when that
changes, so it costs an SD card nothing; `fieldline edge spool` and whoever waits for the agent read it.
"""

import asyncio
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Protocol

from broker_bridge.contract import Status
from edge_agent.spool import Spool
from telemetry.clock import Clock

FILE = "agent.json"
LOOK_EVERY_S = 0.2


class Part(Protocol):
    """A collector or the uplink."""

    def state(self) -> str:
        """One short sentence for people."""
        ...

    @property
    def connected(self) -> bool:
        """Whether it can do its work now."""
        ...


@dataclass(frozen=True, slots=True)
class Report:
    """The content of agent.json. `changed_at`: ms since 1970 UTC."""

    pid: int
    changed_at: int
    connected: dict[str, bool] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Health:
    """The agent's parts, what is wrong with the spool (empty: nothing), and how many messages were ignored."""

    directory: Path
    clock: Clock
    parts: dict[str, Part]
    trouble: Callable[[], str]
    ignored: Callable[[], int] = lambda: 0

    def status(self, spool: Spool) -> Status:
        """For the trunk; called in the spool's thread."""
        held = spool.status()
        return Status(
            epoch=held.epoch,
            agent_version=metadata.version("fieldline"),
            reported_at=self.clock.now_ms(),
            mark=held.mark,
            last_seq=held.last_seq,
            spool_records=held.records,
            spool_bytes=held.bytes,
            spool_oldest_at=max(held.oldest_at, 0),
            collectors=self._states(),
            thinned=held.thinned,
        )

    def _states(self) -> dict[str, str]:
        states = {name: part.state() for name, part in self.parts.items()}
        if self.ignored():
            states["ignored"] = f"{self.ignored()} messages since the start"
        return states | ({"spool": self.trouble()} if self.trouble() else {})

    async def run(self) -> None:
        """Keep the file true until cancelled."""
        written: object = None
        while True:
            connected = {name: part.connected for name, part in self.parts.items()}
            if written != (connected, self.trouble()):
                written = connected, self.trouble()
                self._write(Report(os.getpid(), self.clock.now_ms(), connected, self._states()))
            await asyncio.sleep(LOOK_EVERY_S)

    def _write(self, report: Report) -> None:
        new = self.directory / f"{FILE}.new"
        try:
            new.write_text(json.dumps(asdict(report), indent=1))
            new.replace(self.directory / FILE)
        except OSError:
            pass  # a full disk: what is wrong is in the log, and the spool says it, too


def read_report(directory: Path) -> Report | None:
    """The report of the agent that runs on this spool; None when none does."""
    try:
        report = Report(**json.loads((directory / FILE).read_text()))
        os.kill(report.pid, 0)
    except PermissionError:
        return report  # it runs, as another user
    except (OSError, ValueError, TypeError):
        return None
    return report

"""The drill's books: what devices were told, against what the tables hold and what the gateway has left out."""

import asyncio
import contextlib
import time
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from ingest.clickhouse.client import ClickHouseError
from proof import checker, demo, mixed_checker
from proof.account import Account, Totals, totals
from proof.scene import Scene
from telemetry.errors import FieldlineError

LOOK_S = 0.5
WRONG_MAX = 5


@dataclass(frozen=True, slots=True)
class Books:
    """What devices were told, against the tables. thinned: what the gateway says that it left out on purpose."""

    fleet: checker.Verdict
    mixed: mixed_checker.Findings
    now: Totals
    told: int
    poison: int
    spools_lost: int
    thinned: int

    @property
    def lacking(self) -> int:
        """How much devices were told of that is not in the tables. What of it was not declared lost is missing."""
        poison = max(0, self.poison - self.now.dead_lettered)
        return self.fleet.missing.total() + self.mixed.lacking(self.spools_lost) + poison

    @property
    def account(self) -> Account:
        """In numbers; a window that lacks readings counts as one, and of the losses only what devices were told of."""
        sent = self.told + self.mixed.promised.total() - self.mixed.left_out
        dead = self.now.dead_lettered
        losses = min(self.lacking, self.now.losses)
        return Account(
            sent=sent + self.poison,
            stored=sent + self.poison - dead - self.lacking,
            dead_lettered=dead,
            losses=losses,
            duplicates=max(self.now.duplicates, self.fleet.double.total() + self.mixed.double)
            + max(0, dead - self.poison),
            missing=self.now.missing + self.lacking - losses,
        )

    def differences(self) -> list[str]:
        """Sentences; empty when the books are right."""
        account = self.account
        said = self.mixed.wrong[:WRONG_MAX]
        if self.fleet.double or account.missing:
            said += self.fleet.sentences()
        if account.missing:
            said += self.mixed.sentences()
        if abs(self.thinned - self.mixed.left_out) > self.now.losses:
            said.append(f"the gateway says that it left out {self.thinned} readings, and it was {self.mixed.left_out}")
        if not account.adds_up and not said:
            said.append("the accounting does not add up")
        return said

    def transports(self) -> dict[str, dict[str, int]]:
        """Readings of the mixed devices: how many were said, promised and found, by transport."""
        mixed = self.mixed
        return {
            via: {"said": said, "promised": mixed.promised[via], "found": mixed.found[via]}
            for via, said in sorted(mixed.said.items())
        }

    def table(self) -> Table:
        """The same for people."""
        table = Table(title="Readings of mixed devices", title_justify="left")
        for heading in ("transport", "said", "promised", "found"):
            table.add_column(heading, justify="left" if heading == "transport" else "right")
        for via, counts in self.transports().items():
            table.add_row(via, *(f"{count:,}" for count in counts.values()))
        return table


async def close_books(scene: Scene, journal: Path, said: Path, poison: int) -> Books:
    """Wait until the tables hold what devices were told, or nothing has changed for QUIET_S_MAX."""
    await demo.confirmed(scene.stack)
    told = checker.told(journal)
    devices = sorted({device for device, *_ in told})

    def look() -> Books:
        scene.status()
        return Books(
            checker.judge(told, checker.held(scene.stack.url)),
            mixed_checker.judge(said, mixed_checker.held(scene.stack.url)),
            totals(scene.client, devices),
            told.total(),
            poison,
            max(0, len(scene.thinned) - 1),
            sum(scene.thinned.values()),
        )

    books, account, changed_s = None, None, time.monotonic()
    while time.monotonic() - changed_s < demo.QUIET_S_MAX or books is None:
        with contextlib.suppress(ClickHouseError, FieldlineError, OSError):
            books = await asyncio.to_thread(look)
            if not books.now.uncommitted and not books.differences():
                break
            if books.account != account:
                account, changed_s = books.account, time.monotonic()
        await asyncio.sleep(LOOK_S)
    return books

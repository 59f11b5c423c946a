"""The demo's books: what devices were told against what the tables hold.

`sent` is the devices' side: readings whose message was acknowledged to the device, plus acknowledged messages
that could not become readings. `stored`, `dead_lettered` and `losses` are the tables' side, since a baseline
that was taken before the fleet started; other devices may send meanwhile and are left out. Duplicates and gaps
within a spool come from the view `accounting`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from analytics.account import fetch
from ingest.clickhouse.client import Client


@dataclass(frozen=True, slots=True)
class Totals:
    """The tables' side: rows of the fleet's devices; and over all gateways what must be 0 in the end."""

    stored: int = 0
    dead_lettered: int = 0
    losses: int = 0
    duplicates: int = 0
    missing: int = 0
    uncommitted: int = 0


def totals(client: Client, devices: Sequence[str] = ()) -> Totals:
    """The tables' side, now. devices: whose rows count; empty: everybody's."""
    rows = fetch(client)
    stored, dead_lettered = client.query(
        "SELECT (SELECT count() FROM fieldline.readings WHERE empty({devices:Array(String)}) "
        "OR device IN {devices:Array(String)}), (SELECT count() FROM fieldline.dead_letters "
        "WHERE epoch != '' AND (empty({devices:Array(String)}) "
        "OR hasAny(splitByChar('/', source), {devices:Array(String)})))",
        parameters={"devices": list(devices)},
    ).result_rows[0]
    return Totals(
        stored,
        dead_lettered,
        losses=sum(row.losses for row in rows),
        duplicates=sum(row.duplicates for row in rows),
        missing=sum(row.missing for row in rows),
        uncommitted=sum(row.uncommitted for row in rows),
    )


@dataclass(frozen=True, slots=True)
class Account:
    """The books of one run."""

    sent: int
    stored: int
    dead_lettered: int
    losses: int
    duplicates: int
    missing: int

    @classmethod
    def of(cls, sent: int, now: Totals, before: Totals) -> "Account":
        """Close the books: what the devices were told but no table holds is missing, the reverse is double."""
        stored = now.stored - before.stored
        dead_lettered = now.dead_lettered - before.dead_lettered
        losses = now.losses - before.losses
        held = stored + dead_lettered + losses
        return cls(
            sent,
            stored,
            dead_lettered,
            losses,
            duplicates=now.duplicates + max(0, held - sent),
            missing=now.missing + max(0, sent - held),
        )

    @property
    def holds(self) -> bool:
        """Nothing is missing, double or lost."""
        return self.adds_up and self.sent == self.stored + self.dead_lettered

    @property
    def adds_up(self) -> bool:
        """Nothing is missing or double; losses are declared."""
        held = self.stored + self.dead_lettered + self.losses
        return self.missing == 0 and self.duplicates == 0 and self.sent == held

    def line(self) -> str:
        """The demo's last line."""
        return (
            f"accounting: sent={self.sent} stored={self.stored} dead_lettered={self.dead_lettered} "
            f"losses={self.losses} duplicates={self.duplicates} missing={self.missing}"
        )

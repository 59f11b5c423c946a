"""The demo's books: what devices were told against what the tables hold.

`sent` is the devices' side: readings whose message was acknowledged to the device, plus acknowledged messages
that could not become readings. `stored`, `dead_lettered` and `losses` are the tables' side, since a baseline
that was taken before the fleet started. Duplicates and gaps within a spool come from the view `accounting`.
"""

from dataclasses import dataclass

from analytics.account import fetch
from ingest.clickhouse.client import Client


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over all gateways and epochs."""

    stored: int = 0
    dead_lettered: int = 0
    losses: int = 0
    committed: int = 0
    duplicates: int = 0
    missing: int = 0
    uncommitted: int = 0

    def __sub__(self, before: "Totals") -> "Totals":
        return Totals(*(getattr(self, name) - getattr(before, name) for name in self.__slots__))


def totals(client: Client) -> Totals:
    """The tables' side, now."""
    rows = fetch(client)
    return Totals(*(sum(getattr(row, name) for row in rows) for name in Totals.__slots__))


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
        run = now - before
        held = run.stored + run.dead_lettered + run.losses
        return cls(
            sent,
            run.stored,
            run.dead_lettered,
            run.losses,
            duplicates=now.duplicates + max(0, held - sent),
            missing=now.missing + max(0, sent - held),
        )

    @property
    def holds(self) -> bool:
        return self.missing == 0 and self.duplicates == 0 and self.sent == self.stored + self.dead_lettered

    def line(self) -> str:
        """The demo's last line."""
        return (
            f"accounting: sent={self.sent} stored={self.stored} dead_lettered={self.dead_lettered} "
            f"losses={self.losses} duplicates={self.duplicates} missing={self.missing}"
        )

"""What leaves the spool: runs of records and declared losses, by seq."""

from dataclasses import dataclass

from telemetry.columns import Columns


@dataclass(frozen=True, slots=True)
class Records:
    """A run of records, from first_seq on."""

    first_seq: int
    columns: Columns

    @property
    def last_seq(self) -> int:
        return self.first_seq + len(self.columns) - 1


@dataclass(frozen=True, slots=True)
class Loss:
    """A declared loss: first_seq..last_seq will never come. declared_at: ms since 1970 UTC."""

    first_seq: int
    last_seq: int
    reason: str
    declared_at: int

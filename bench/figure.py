"""What a bench returns: figures, each with the budget it is held against, if any, and tables."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich import table


@dataclass(frozen=True, slots=True)
class Figure:
    """`at_least` or `at_most`: the design's budget for `value`; both None: for information."""

    what: str
    value: float
    unit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def shown(self) -> str:
        digits = 0 if abs(self.value) >= 1000 else 2
        return f"{self.value:,.{digits}f} {self.unit}".strip()

    @property
    def budget(self) -> str:
        if self.at_least is not None:
            return f"at least {self.at_least:g} {self.unit}".strip()
        return "" if self.at_most is None else f"at most {self.at_most:g} {self.unit}".strip()

    @property
    def met(self) -> bool | None:
        if self.at_least is not None:
            return self.value >= self.at_least
        return None if self.at_most is None else self.value <= self.at_most

    @property
    def verdict(self) -> str:
        return "" if self.met is None else ("met" if self.met else "MISSED")

    def as_dict(self) -> dict[str, object]:
        return {
            "what": self.what,
            "value": self.value,
            "unit": self.unit,
            "budget": self.budget,
            "met": self.met,
        }


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of numbers and words. name: its key in the file that `keep` writes to."""

    name: str
    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[float | str]]

    @property
    def shown(self) -> table.Table:
        shown = table.Table(title=self.title, title_justify="left")
        for heading in self.headings:
            shown.add_column(heading, justify="right", overflow="fold")
        for row in self.rows:
            shown.add_row(*map(_cell, row))
        return shown

    def keep(self, path: Path, machine: str) -> None:
        """Put it into a file of tables, where another run may have put others."""
        tables = json.loads(path.read_text()) if path.exists() else {}
        rows = [dict(zip(self.headings, row, strict=True)) for row in self.rows]
        tables[self.name] = {"title": self.title, "machine": machine, "rows": rows}
        path.write_text(json.dumps(tables, indent=1))


def _cell(cell: float | str) -> str:
    if isinstance(cell, str):
        return cell
    return f"{cell:,.0f}" if abs(cell) >= 10_000 else f"{cell:,.5g}"

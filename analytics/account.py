"""`fieldline account`: where every seq of every gateway and epoch is, and whether the promise holds.

It reads the view `accounting` (analytics/schema/0003_accounting.sql says how it counts) and ends with status
1 when a committed reading is missing or something is stored twice, so that a script can ask.
"""

import json
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, fields
from typing import Literal, TextIO

from rich.console import Console
from rich.table import Table

from ingest.clickhouse.client import ClickHouseError, Client, address, connect, explain
from ingest.clickhouse.explain import UNKNOWN_DATABASE, UNKNOWN_TABLE
from telemetry.errors import FieldlineError


@dataclass(frozen=True, slots=True)
class Row:
    """One (gateway, epoch); all numbers count seqs. committed = stored + dead_lettered + losses + missing."""

    gateway: str
    epoch: str
    committed: int
    stored: int
    dead_lettered: int
    losses: int
    duplicates: int
    missing: int
    uncommitted: int

    @property
    def identity_holds(self) -> bool:
        """Every committed seq is in the tables, and nothing is there twice."""
        accounted = self.stored + self.dead_lettered + self.losses
        return self.committed == accounted and not self.missing and not self.duplicates


WIDTH_IN_PIPES = 200
_NUMBERS = tuple(entry.name for entry in fields(Row))[2:]


def fetch(client: Client) -> list[Row]:
    """The accounting, ordered by gateway and epoch. Raises FieldlineError when there is no such view yet."""
    columns = ", ".join(entry.name for entry in fields(Row))
    query = f"SELECT {columns}, identity_holds FROM fieldline.accounting ORDER BY gateway, epoch"
    try:
        found = client.query(query).result_rows
    except ClickHouseError as error:
        if getattr(error, "code", None) in {UNKNOWN_TABLE, UNKNOWN_DATABASE}:
            raise FieldlineError(
                "There is no database fieldline with a view accounting yet. Run `fieldline analytics migrate`."
            ) from error
        raise
    rows = [Row(*row[:-1]) for row in found]
    assert [row.identity_holds for row in rows] == [bool(row[-1]) for row in found]
    return rows


def thinned(client: Client) -> int:
    """How many readings the gateways' present spools have left out on purpose, as they last said."""
    [(count,)] = client.query("SELECT sum(thinned) FROM fieldline.gateways FINAL").result_rows
    return int(count)


def total(rows: Sequence[Row]) -> Row:
    """All rows added up. Its own identity proves less than that of every row."""
    return Row("total", "", *(sum(getattr(row, name) for row in rows) for name in _NUMBERS))


def run(
    url: str | None = None,
    fmt: Literal["table", "json"] = "table",
    *,
    out: TextIO | None = None,
    err: TextIO | None = None,
) -> int:
    """Print the accounting; returns 0 when it holds, 1 when it does not or could not be asked."""
    out, err = out or sys.stdout, err or sys.stderr
    try:
        where = address(url)
        with closing(connect(url, database="default")) as client:
            try:
                rows, left_out = fetch(client), thinned(client)
            except ClickHouseError as error:
                raise explain(error, where) from error
    except FieldlineError as error:
        print(error, file=err)
        return 1
    holds = all(row.identity_holds for row in rows)
    print(_as_json(rows, left_out, holds=holds) if fmt == "json" else "", end="", file=out)
    if fmt == "table":
        width = None if out.isatty() else WIDTH_IN_PIPES
        _show(rows, Console(file=out, highlight=False, width=width), left_out, holds=holds)
    return 0 if holds else 1


def _as_json(rows: Sequence[Row], left_out: int, *, holds: bool) -> str:
    document = {
        "rows": [asdict(row) | {"identity_holds": row.identity_holds} for row in rows],
        "total": {name: getattr(total(rows), name) for name in _NUMBERS},
        "thinned": left_out,
        "identity_holds": holds,
    }
    return json.dumps(document, indent=2) + "\n"


def _show(rows: Sequence[Row], console: Console, left_out: int, *, holds: bool) -> None:
    if not rows:
        console.print("No gateway has sent anything yet.")
        return
    table = Table()
    table.add_column("gateway")
    table.add_column("epoch")
    for name in _NUMBERS:
        table.add_column(name, justify="right")
    for row in rows:
        _add(table, row, None if row.identity_holds else "bold red")
    table.add_section()
    sums = total(rows)
    _add(table, sums, "bold")
    console.print(table)
    console.print(_verdict(rows, sums, holds=holds), soft_wrap=True)
    if left_out:
        console.print(f"Gateways have left out {left_out:,} readings on purpose; these have no seq.", soft_wrap=True)


def _add(table: Table, row: Row, style: str | None) -> None:
    numbers = (f"{getattr(row, name):,}" for name in _NUMBERS)
    table.add_row(row.gateway, row.epoch, *numbers, style=style)


def _verdict(rows: Sequence[Row], sums: Row, *, holds: bool) -> str:
    if not holds:
        broken = ", ".join(f"{row.gateway}/{row.epoch}" for row in rows if not row.identity_holds)
        found = f"{sums.missing:,} missing, {sums.duplicates:,} duplicates"
        return f"The accounting is broken for {broken}: {found}."
    said = "Every committed record is accounted for, once: committed = stored + dead_lettered + losses."
    if sums.uncommitted:
        said += f" {sums.uncommitted:,} more are stored but not committed yet: in flight, or to be recovered."
    return said

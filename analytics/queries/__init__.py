"""Named queries: what the dashboard, Grafana's files and people ask, one SQL file each in this folder.

A file `NAME.sql` begins with comment lines, then has one SELECT with query parameters (`{begin:DateTime64(3)}`):

    -- Readings per minute of each gateway
    -- One row per gateway and minute: `minute` (UTC), `gateway`, `readings` (count).
    -- parameter minutes = 60: how far to look back
    SELECT ...

The first line is the title, the following ones say what the columns are and their units. A `parameter` line gives a
parameter's default and meaning; without ` = DEFAULT`, or without the line, there is no default. Values travel beside
the text, never inside it.

A moment (DateTime64) may be given as a datetime (without a zone: UTC), as ISO 8601 text, or as `now`, `-90s`, `-15m`,
`-24h`, `-7d`: so long ago. docs/queries.md lists the queries; views.py makes views of them, for SQL.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.resources import files
from typing import Any

from ingest.clickhouse.client import Client
from telemetry.errors import FieldlineError

OF_PAGES = "web_"
"""Names of queries that only the pages of analytics/web ask begin so: they may change with their page."""

_USE = re.compile(r"\{(\w+)\s*:\s*([^{}]+?)\s*\}")
_PARAMETER = re.compile(r"parameter (\w+)(?: = (.*?))?: (.*)")
_AGO = re.compile(r"-(\d{1,7})([smhd])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


@dataclass(frozen=True, slots=True)
class Parameter:
    """`type` is ClickHouse's; `default` None: it must be given."""

    name: str
    type: str
    default: str | None
    about: str


@dataclass(frozen=True, slots=True)
class Query:
    """One file. `sql` has no comments of the head, and no semicolon at its end."""

    name: str
    title: str
    about: str
    parameters: tuple[Parameter, ...]
    sql: str

    def values(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """What is given, with defaults for the rest. Raises FieldlineError for unknown and missing parameters."""
        known = {parameter.name: parameter.default for parameter in self.parameters}
        if unknown := sorted(given.keys() - known.keys()):
            raise FieldlineError(
                f"The query {self.name} has no parameter {unknown[0]}; it has {', '.join(known) or 'none'}."
            )
        values = known | dict(given)
        if missing := [name for name, value in values.items() if value is None]:
            raise FieldlineError(f"The query {self.name} needs the parameter {missing[0]}.")
        now = datetime.now(UTC)
        moments = {parameter.name for parameter in self.parameters if parameter.type.startswith("DateTime")}
        return {name: moment(value, now) if name in moments else value for name, value in values.items()}


def moment(value: datetime | str, now: datetime) -> str:
    """A moment as ClickHouse reads it, in UTC to the microsecond. Raises FieldlineError."""
    try:
        if not isinstance(value, str):
            at = value
        elif value == "now":
            at = now
        elif ago := _AGO.fullmatch(value):
            at = now - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
        else:
            at = datetime.fromisoformat(value)
        at = at.replace(tzinfo=UTC) if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise FieldlineError(
            f"{value!r} is not a moment. Give it as 2026-01-31T12:00:00Z, as now, or as how long ago, e.g. -15m or -7d."
        ) from error
    return f"{at:%Y-%m-%d %H:%M:%S.%f}"


def names() -> list[str]:
    """Those for people, sorted: not the ones that only pages of the dashboard ask."""
    return [name for name in every() if not name.startswith(OF_PAGES)]


def every() -> list[str]:
    """All of them, sorted."""
    return sorted(
        entry.name.removesuffix(".sql") for entry in files("analytics.queries").iterdir() if entry.name.endswith(".sql")
    )


@cache
def load(name: str) -> Query:
    """One query. Raises FieldlineError when there is none of that name."""
    if name not in every():
        raise FieldlineError(f"There is no query {name}. There are: {', '.join(names())}.")
    return parse(name, files("analytics.queries").joinpath(f"{name}.sql").read_text(encoding="utf-8"))


def parse(name: str, text: str) -> Query:
    """A file's text."""
    lines = text.strip().splitlines()
    head = 0
    while head < len(lines) and lines[head].startswith("--"):
        head += 1
    said = [line.removeprefix("--").strip() for line in lines[:head]]
    sql = "\n".join(lines[head:]).strip().removesuffix(";")
    stated = {found[1]: (found[2], found[3]) for line in said if (found := _PARAMETER.fullmatch(line))}
    types = dict(_USE.findall(sql))
    assert stated.keys() <= types.keys(), f"{name}.sql: no use of the parameter {sorted(stated.keys() - types.keys())}"
    assert said, f"{name}.sql has no title"
    about = " ".join(line for line in said[1:] if not _PARAMETER.fullmatch(line))
    parameters = tuple(Parameter(key, types[key], *stated.get(key, (None, ""))) for key in types)
    return Query(name, said[0], about, parameters, sql)


def ask(client: Client, name: str, **given: Any) -> Any:
    """Run a named query; the result of clickhouse_connect's `query`. Raises FieldlineError, ClickHouseError."""
    query = load(name)
    return client.query(query.sql, parameters=query.values(given))

"""What is exported: a table's columns as every reader of Parquet understands them, and the fingerprints of its parts.

Spark knows no unsigned integers, so they become the next larger signed ones; a seq stays below 2^63. Times are UTC
milliseconds (TIMESTAMP_MILLIS, adjusted to UTC), repeated strings are dictionaries.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from typing import Literal, NamedTuple

from ingest.clickhouse.client import DATABASE, Client

PARQUET_SETTINGS: Mapping[str, int | str] = {
    "output_format_parquet_compression_method": "zstd",
    "output_format_parquet_string_as_string": 1,
    "output_format_parquet_datetime_as_uint32": 0,
}
_SIGNED = {"UInt8": "Int16", "UInt16": "Int32", "UInt32": "Int64", "UInt64": "Int64"}
_TIMES = {"measured_at", "ingested_at", "bucket"}
_TIME = "DateTime64(3, 'UTC')"
_KEY = re.compile(r"date=(\d{4}-\d\d-\d\d)/(?:hour=(\d{1,2})/)?[^/]+\Z")

By = Literal["date", "hour"]


@dataclass(frozen=True, slots=True)
class Span:
    """Days (UTC) from `first` up to, and without, `end`; None is open. `by`: what a file holds."""

    first: date | None = None
    end: date | None = None
    by: By = "date"

    def __str__(self) -> str:
        parts = [f"from {self.first}" if self.first else "", f"before {self.end}" if self.end else ""]
        return " ".join(part for part in parts if part) or "yet"

    def __contains__(self, day: date) -> bool:
        return (self.first is None or day >= self.first) and (self.end is None or day < self.end)

    def condition(self, column: str) -> str:
        """For WHERE."""
        parts = [f"{column} {sign} {_literal(day)}" for sign, day in ((">=", self.first), ("<", self.end)) if day]
        return " AND ".join(parts) or "1"


class Partition(NamedTuple):
    """One file: a day, or an hour of one (UTC)."""

    day: date
    hour: int | None = None

    def __str__(self) -> str:
        return str(self.day) if self.hour is None else f"{self.day} {self.hour:02d}:00"

    @property
    def span(self) -> Span:
        """The day it lies in."""
        return Span(self.day, self.day + timedelta(days=1), "date" if self.hour is None else "hour")

    @property
    def folder(self) -> str:
        """Hive's names for it."""
        return f"date={self.day}" if self.hour is None else f"date={self.day}/hour={self.hour:02d}"

    @classmethod
    def of_path(cls, path: str) -> "Partition | None":
        """The partition of a file's path; None for one that is not ours."""
        found = _KEY.search(path)
        return cls(date.fromisoformat(found[1]), int(found[2]) if found[2] else None) if found else None

    def condition(self, column: str) -> str:
        """For WHERE."""
        begin = datetime(self.day.year, self.day.month, self.day.day, self.hour or 0, tzinfo=UTC)
        end = begin + (timedelta(days=1) if self.hour is None else timedelta(hours=1))
        return f"{column} >= {_literal(begin)} AND {column} < {_literal(end)}"


class Fingerprint(NamedTuple):
    """Rows, and the sums of some columns modulo 2^64: equal for the same rows, and for others hardly ever."""

    rows: int
    sums: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Dataset:
    """A table. time: the column that partitions it; sums: the columns of the fingerprint; columns: what is selected."""

    table: str
    time: str
    sums: tuple[str, ...]
    order: str
    columns: str = "*"
    casts: tuple[tuple[str, str], ...] = ()

    def with_columns(self, client: Client) -> "Dataset":
        """With the casts that the table's columns of today need."""
        described = client.query(f"DESCRIBE TABLE (SELECT {self.columns} FROM {DATABASE}.{self.table})").result_rows
        return replace(self, casts=tuple((row[0], _SIGNED[row[1]]) for row in described if row[1] in _SIGNED))

    def select(self, partition: Partition) -> str:
        """The rows of one file, in the table's order."""
        # `rows` gives the conditions the table's own columns: a cast column is not one any more.
        casts = ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind in self.casts)
        chosen = f"* REPLACE ({casts})" if casts else "*"
        rows = f"SELECT {self.columns} FROM {DATABASE}.{self.table} WHERE {partition.condition(self.time)}"
        return f"SELECT {chosen} FROM ({rows} ORDER BY {self.order})"

    def fingerprints(self, client: Client, span: Span) -> dict[Partition, Fingerprint]:
        """Of all partitions in the span that have rows, in order."""
        source = f"{DATABASE}.{self.table}"
        hour = f"toHour({self.time})" if span.by == "hour" else "NULL"
        keys = f"toString(toDate32({self.time})) AS day, {hour} AS hour_of_day"
        rows = client.query(
            f"SELECT {keys}, {self.sums_of()} FROM {source} WHERE {span.condition(self.time)}"
            " GROUP BY day, hour_of_day ORDER BY day, hour_of_day"
        ).result_rows
        return {Partition(date.fromisoformat(row[0]), row[1]): Fingerprint(row[2], tuple(row[3:])) for row in rows}

    @property
    def structure(self) -> str:
        """The columns of the fingerprint in a file, as ClickHouse writes a structure."""
        return ", ".join(f"{name} {_TIME if name in _TIMES else 'Int64'}" for name in self.sums)

    def sums_of(self) -> str:
        """The fingerprint as SQL, of the table's rows or of a file's."""
        values = (f"{'toUnixTimestamp64Milli' if name in _TIMES else 'toInt64'}({name})" for name in self.sums)
        return ", ".join(["count()", *(f"sum({value})" for value in values)])


def _literal(moment: date | datetime) -> str:
    text = f"{moment:%Y-%m-%d %H:%M:%S}" if isinstance(moment, datetime) else f"{moment} 00:00:00"
    return f"toDateTime64('{text}', 3, 'UTC')"


_ROLLUP = "device, metric, bucket, count, min, max, sum, first, last"
DATASETS = {
    "readings": Dataset(
        "readings", "measured_at", ("seq", "measured_at", "ingested_at"), "device, metric, measured_at"
    ),
    "rollup_1m": Dataset("rollup_1m", "bucket", ("count", "bucket"), "device, metric, bucket", _ROLLUP),
    "rollup_1h": Dataset("rollup_1h", "bucket", ("count", "bucket"), "device, metric, bucket", _ROLLUP),
}

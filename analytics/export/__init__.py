"""`fieldline export`: tables as Parquet files in Hive's layout, for pyarrow, DuckDB, Spark and what else reads a lake.

    DEST/readings/date=2026-11-24/readings.parquet                  one file per day (UTC)
    DEST/readings/date=2026-11-24/hour=13/readings.parquet          with --partition hour

ClickHouse makes the files: into a local directory they come over HTTP; into an S3-compatible store ClickHouse writes
them itself. The files are the only state. A run reads the fingerprint (rows, and sums of columns that tell rows apart)
of every file and of every partition of the table, and writes the files that differ. So a killed run is resumed by the
next one, late readings bring their day's file up to date, and what a run leaves equals the table, or it says where not.

A file appears as a whole or not at all: it is written beside its place, read back, synced and renamed; a store shows an
object when it is complete. A file that has more rows than the table is kept: retention may have shortened the table.
"""

import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from analytics.dead_letters import tables
from analytics.export.dataset import DATASETS, Dataset, Fingerprint, Partition, Span
from analytics.export.local import Local
from analytics.export.s3 import S3
from ingest.clickhouse.client import Client, address
from telemetry.errors import FieldlineError

ATTEMPTS_MAX = 3
_STORE = re.compile(r"(?:s3|https?)://")
_SCHEME = re.compile(r"\w+://")


class Target(Protocol):
    """Where files go. Both raise FieldlineError and ClickHouse's errors."""

    def there(self, dataset: Dataset, span: Span) -> dict[Partition, Fingerprint]:
        """What is in the files that can be read."""

    def write(self, dataset: Dataset, partition: Partition) -> Fingerprint:
        """Make one file; returns what is in it, read back."""

    def close(self) -> None:
        """Let go of the destination."""


@dataclass(slots=True)
class Outcome:
    """What a run did. kept: files with more rows than the table; moving: files that do not equal the table yet."""

    written: int = 0
    rows: int = 0
    there: int = 0
    kept: list[Partition] = field(default_factory=list)
    moving: list[Partition] = field(default_factory=list)


def run(
    url: str | None, destination: str, dataset: Dataset, span: Span, *, replace: bool = False, out: TextIO | None = None
) -> int:
    """Export; 0 when every file equals the table (or was kept), 1 when the table changed faster than it was read."""
    console = Console(file=out or sys.stdout, highlight=False, soft_wrap=True)
    with tables(url) as client, _target(client, url, destination) as target:
        dataset = dataset.with_columns(client)
        wanted = dataset.fingerprints(client, span)
        outcome = _export(client, target, dataset, wanted, target.there(dataset, span), replace=replace)
    _tell(console, destination, dataset, span, outcome)
    return 1 if outcome.moving else 0


@contextmanager
def _target(client: Client, url: str | None, destination: str) -> Iterator[Target]:
    if _SCHEME.match(destination) and not _STORE.match(destination):
        raise FieldlineError(f"{destination} must be a directory, s3://BUCKET/PREFIX, or http(s)://HOST/BUCKET/PREFIX")
    target: Target = (
        S3.of(client, destination) if _STORE.match(destination) else Local(client, address(url), destination)
    )
    try:
        yield target
    finally:
        target.close()


def _export(
    client: Client,
    target: Target,
    dataset: Dataset,
    wanted: dict[Partition, Fingerprint],
    there: dict[Partition, Fingerprint],
    *,
    replace: bool,
) -> Outcome:
    outcome = Outcome()
    due: list[Partition] = []
    for partition, fingerprint in wanted.items():
        found = there.get(partition)
        if found == fingerprint:
            outcome.there += 1
        elif found is not None and found.rows > fingerprint.rows and not replace:
            outcome.kept.append(partition)
        else:
            due.append(partition)
    for partition in _shown(due):
        _write(client, target, dataset, partition, outcome)
    return outcome


def _write(client: Client, target: Target, dataset: Dataset, partition: Partition, outcome: Outcome) -> None:
    """A partition that receives readings meanwhile is written again, a few times."""
    for _ in range(ATTEMPTS_MAX):
        written = target.write(dataset, partition)
        if dataset.fingerprints(client, partition.span).get(partition) == written:
            break
    else:
        outcome.moving.append(partition)
    outcome.written += 1
    outcome.rows += written.rows


def _shown(due: Sequence[Partition]) -> Iterator[Partition]:
    """Each in turn, with a progress bar where somebody watches."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(due))
        for partition in due:
            progress.update(task, description=str(partition))
            yield partition
            progress.advance(task)


def _tell(console: Console, destination: str, dataset: Dataset, span: Span, outcome: Outcome) -> None:
    if not outcome.written and not outcome.there and not outcome.kept:
        console.print(f"There is nothing in {dataset.table} {span}.")
        return
    console.print(
        f"{_count(outcome.written, 'file')} written ({outcome.rows:,} rows), {outcome.there:,} were up to date:"
        f" {destination.rstrip('/')}/{dataset.table}"
    )
    if outcome.kept:
        console.print(
            f"{_count(len(outcome.kept), 'file')} kept that have more rows than the table, from {outcome.kept[0]} on:"
            " retention or a replay has shortened it. --replace writes them anew."
        )
    if outcome.moving:
        console.print(
            f"{_count(len(outcome.moving), 'file')} not up to date, from {outcome.moving[0]} on: readings arrived while"
            " they were written. Run it again, or end with --to before today."
        )


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


__all__ = ["DATASETS", "Dataset", "Outcome", "Partition", "Span", "Target", "run"]

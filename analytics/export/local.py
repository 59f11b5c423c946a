"""A local directory as the destination: files come over HTTP, and are read back with pyarrow before they count."""

import fcntl
import os
from pathlib import Path
from typing import IO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from analytics.export.dataset import PARQUET_SETTINGS, Dataset, Fingerprint, Partition, Span
from analytics.sql import body
from ingest.clickhouse.client import Address, Client, known
from telemetry.errors import FieldlineError

LOCK = ".fieldline-export.lock"


class Local:
    """Readers of such directories pass over names that begin with a dot: those of the lock and of unfinished files."""

    def __init__(self, client: Client, where: Address, directory: str) -> None:
        self._client = client
        self._where = where
        self._root = Path(directory).expanduser()
        self._lock = self._take_lock()

    def _take_lock(self) -> IO[str]:
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            lock = (self._root / LOCK).open("w")
        except OSError as error:
            raise FieldlineError(f"cannot write into {self._root}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock.close()
            raise FieldlineError(f"another export writes into {self._root}; wait for its end") from None
        return lock

    def close(self) -> None:
        """Let another export in."""
        self._lock.close()

    def there(self, dataset: Dataset, span: Span) -> dict[Partition, Fingerprint]:
        """All files in the span; those that cannot be read are left out, and so written anew."""
        found: dict[Partition, Fingerprint] = {}
        for path in (self._root / dataset.table).glob("date=*/**/*.parquet"):
            partition = Partition.of_path(path.relative_to(self._root).as_posix())
            if partition is None:
                continue
            if (partition.hour is None) != (span.by == "date"):
                other = "hour" if partition.hour is not None else "date"
                raise FieldlineError(
                    f"{path} is from an export with --partition {other}; use that, or another directory"
                )
            if partition.day in span and (fingerprint := _fingerprint(path, dataset)):
                found[partition] = fingerprint
        return found

    def write(self, dataset: Dataset, partition: Partition) -> Fingerprint:
        """Raises FieldlineError for a full disk, and for a result that is broken off or is no Parquet file."""
        folder = self._root / dataset.table / partition.folder
        place, unfinished = folder / f"{dataset.table}.parquet", folder / f".{dataset.table}.parquet.unfinished"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with unfinished.open("wb") as file:
                self._fetch(dataset.select(partition), file)
                file.flush()
                os.fsync(file.fileno())
            fingerprint = _fingerprint(unfinished, dataset)
            if fingerprint is None:
                raise FieldlineError(f"{unfinished} came back as something else than a Parquet file")
            unfinished.replace(place)
            _sync(folder)
        except OSError as error:
            unfinished.unlink(missing_ok=True)
            raise FieldlineError(f"cannot write {place}: {error.strerror or error}") from error
        return fingerprint

    def _fetch(self, select: str, file: IO[bytes]) -> None:
        response = self._client.raw_stream(
            select,
            settings=known(self._client, PARQUET_SETTINGS),
            transport_settings={"X-ClickHouse-Format": "Parquet"},
        )
        try:
            for chunk in body(response, self._where):
                file.write(chunk)
        finally:
            response.close()


def _fingerprint(path: Path, dataset: Dataset) -> Fingerprint | None:
    """None: no file of ours, or a damaged one."""
    rows, sums = 0, np.zeros(len(dataset.sums), np.int64)
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=list(dataset.sums)):
                rows += batch.num_rows
                for at, name in enumerate(dataset.sums):
                    sums[at] += batch.column(name).cast(pa.int64()).to_numpy().sum()  # wraps, as ClickHouse's sum does
    except (pa.ArrowException, KeyError, OSError):
        return None
    return Fingerprint(rows, tuple(int(value) for value in sums))


def _sync(folder: Path) -> None:
    """The rename, too, survives a power cut."""
    number = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)

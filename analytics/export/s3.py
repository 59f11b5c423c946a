"""An S3-compatible store as the destination: ClickHouse writes the objects, and reads them back.

`s3://BUCKET/PREFIX`, or the store's own address `http(s)://HOST/BUCKET/PREFIX`, as ClickHouse reaches it. The keys are
those of AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; without them ClickHouse uses those that its server has.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from analytics.export.dataset import PARQUET_SETTINGS, Dataset, Fingerprint, Partition, Span
from ingest.clickhouse.client import Client, known
from telemetry.errors import FieldlineError


@dataclass(frozen=True, slots=True)
class S3:
    """root: the address, without a slash at its end; keys: the access key and its secret, or nothing."""

    client: Client
    root: str
    keys: Mapping[str, str]

    @classmethod
    def of(cls, client: Client, destination: str) -> "S3":
        """Raises FieldlineError when only one of the two keys is set."""
        names = {"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY"}
        keys = {name: os.environ[variable] for name, variable in names.items() if os.environ.get(variable)}
        if len(keys) == 1:
            raise FieldlineError("Set both AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or neither.")
        return cls(client, destination.rstrip("/"), keys)

    def close(self) -> None:
        """There is nothing to let go."""

    def there(self, dataset: Dataset, span: Span) -> dict[Partition, Fingerprint]:
        """All objects in the span. Raises FieldlineError for those of another layout."""
        days, hours = (self._read(dataset, folders) for folders in ("date=*", "date=*/hour=*"))
        found, others, other = (days, hours, "hour") if span.by == "date" else (hours, days, "date")
        if others:
            raise FieldlineError(f"{self.root} has an export with --partition {other}; use that, or another prefix")
        return {partition: fingerprint for partition, fingerprint in found.items() if partition.day in span}

    def write(self, dataset: Dataset, partition: Partition) -> Fingerprint:
        """An object that is there already is replaced."""
        settings = {"s3_truncate_on_insert": 1, **PARQUET_SETTINGS}
        self.client.command(
            f"INSERT INTO FUNCTION {self._function(dataset)} {dataset.select(partition)}",
            parameters=self._parameters(dataset, partition.folder),
            settings=known(self.client, settings),
        )
        return self._read(dataset, partition.folder)[partition]

    def _read(self, dataset: Dataset, folders: str) -> dict[Partition, Fingerprint]:
        rows = self.client.query(
            f"SELECT _path, {dataset.sums_of()} FROM {self._function(dataset, structure=True)} GROUP BY _path",
            parameters=self._parameters(dataset, folders),
            settings=known(self.client, {"use_hive_partitioning": 0, "s3_throw_on_zero_files_match": 0}),
        ).result_rows
        found = {Partition.of_path(row[0]): Fingerprint(row[1], tuple(row[2:])) for row in rows}
        return {partition: fingerprint for partition, fingerprint in found.items() if partition is not None}

    def _function(self, dataset: Dataset, *, structure: bool = False) -> str:
        keys = "".join(f", {{{name}:String}}" for name in self.keys)
        if not structure:
            return f"s3({{object:String}}{keys}, 'Parquet')"
        columns = dataset.structure.replace("'", "\\'")
        return f"s3({{object:String}}{keys}, 'Parquet', '{columns}')"

    def _parameters(self, dataset: Dataset, folders: str) -> dict[str, str]:
        return {"object": f"{self.root}/{dataset.table}/{folders}/{dataset.table}.parquet", **self.keys}

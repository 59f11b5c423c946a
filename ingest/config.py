"""The ingest worker's config file, ingest.toml."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from broker_bridge.config import Broker
from ingest.clickhouse.address import address
from telemetry.config import Section, load_toml, with_profile
from telemetry.errors import ConfigError

PROFILES = {"low_latency": {"commit": {"age_s_max": 0.05}}}
"""What a profile changes; keys that are in the file win."""


class Commit(Section):
    """When a commit is due, and how much may wait for it."""

    rows_max: Annotated[int, Field(ge=1, le=500_000)] = 200_000
    age_s_max: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    buffer_bytes_max: Annotated[int, Field(ge=1024 * 1024)] = 128 * 1024 * 1024


class IngestConfig(Section):
    """The whole file. `own` lists the partitions of this worker; empty: all of them."""

    profile: Literal["default", "low_latency"] = "default"
    clickhouse_url: str | None = None  # default: CLICKHOUSE_URL, or the embedded server on this machine
    partitions: Annotated[int, Field(ge=1, le=65536)] = 16
    own: tuple[int, ...] = ()
    trunk: Broker = Broker()
    commit: Commit = Commit()

    @model_validator(mode="before")
    @classmethod
    def _as_in_the_profile(cls, raw: object) -> object:
        return with_profile(raw, PROFILES)

    @field_validator("clickhouse_url")
    @classmethod
    def _url_is_readable(cls, url: str | None) -> str | None:
        try:
            address(url)
        except ConfigError as error:  # its sentence does not repeat the URL: a password may be in it
            raise ValueError(str(error)) from error
        return url

    @model_validator(mode="after")
    def _own_is_in_range(self) -> "IngestConfig":
        for partition in self.own:
            if not 0 <= partition < self.partitions:
                raise ValueError(f"own names partition {partition}, there are 0 to {self.partitions - 1}")
        if len(set(self.own)) != len(self.own):
            raise ValueError("own names a partition twice")
        return self

    @property
    def owned(self) -> list[int]:
        """The partitions of this worker."""
        return sorted(self.own) or list(range(self.partitions))


def load(path: Path) -> IngestConfig:
    """Parse and check a config file; paths in it are relative to it. Raises ConfigError."""
    return load_toml(path, IngestConfig)

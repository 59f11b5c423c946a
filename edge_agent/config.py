"""The agent's config file, gateway.toml: frozen, every unit in its key's name, unknown keys refused."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from broker_bridge.config import Broker
from telemetry.config import Name, Port, Section, load_toml

class Mqtt(Broker):
    """The MQTT collector: which topics of the device broker to subscribe to."""

    client_id: Name | None = None  # default: fieldline-<gateway>
    topics: tuple[str, ...] = ("devices/+/telemetry",)
    chunk_bytes_max: Annotated[int, Field(ge=4096)] = 4 * 1024 * 1024


class Coap(Section):
    """The CoAP server."""

    bind: str = "0.0.0.0"
    port: Port = 5683
    requests_max: Annotated[int, Field(ge=1)] = 1000
    commit_wait_s_max: Annotated[float, Field(gt=0)] = 20.0


class Mapping(Section):
    """Which part of a topic names the device, and how payloads under it are decoded."""

    topic: str = "devices/{device}/telemetry"
    format: Literal["json"] = "json"
    units: dict[str, str] = {}  # metric -> unit


class Collect(Section):
    """Limits that hold for every protocol."""

    payload_bytes_max: Annotated[int, Field(ge=64)] = 256 * 1024
    dead_letter_bytes_max: Annotated[int, Field(ge=64)] = 1024 * 1024
    series_max: Annotated[int, Field(ge=1)] = 1_000_000
    commit_delay_ms: Annotated[int, Field(ge=0, le=10_000)] = 5
    commit_records_max: Annotated[int, Field(ge=1)] = 50_000


class Spool(Section):
    """The durable queue on disk."""

    path: Path = Path("spool")
    bytes_max: Annotated[int, Field(ge=1024 * 1024)] = 4 * 1024**3
    free_bytes_min: Annotated[int, Field(ge=0)] = 256 * 1024**2
    when_full: Literal["block", "drop_oldest"] = "block"


class Uplink(Broker):
    """The trunk's edge end. `partitions` must be the same as in the ingest tier's config."""

    partitions: Annotated[int, Field(ge=1, le=65536)] = 16
    batch_rows_max: Annotated[int, Field(ge=1, le=500_000)] = 10_000
    batch_bytes_max: Annotated[int, Field(ge=4096, le=16 * 1024 * 1024)] = 1024 * 1024
    batch_age_s_max: Annotated[float, Field(ge=0)] = 0.5
    window_batches_max: Annotated[int, Field(ge=1)] = 16
    resend_s: Annotated[float, Field(gt=0)] = 10.0
    reconnect_s_max: Annotated[float, Field(gt=0)] = 30.0


class GatewayConfig(Section):
    """The whole file."""

    gateway: Name
    mqtt: Mqtt | None = None
    coap: Coap | None = None
    mappings: tuple[Mapping, ...] = (Mapping(),)
    collect: Collect = Collect()
    spool: Spool = Spool()
    uplink: Uplink = Uplink()

    @model_validator(mode="after")
    def _collects_something(self) -> "GatewayConfig":
        if self.mqtt is None and self.coap is None:
            raise ValueError("nothing to collect: add a section [mqtt] or [coap]")
        return self


def load(path: Path) -> GatewayConfig:
    """Parse and check a config file. Raises ConfigError, one line per problem: `file: key must …, got …`.

    Relative paths in the file are relative to the file.
    """
    config = load_toml(path, GatewayConfig)
    spool = config.spool.model_copy(update={"path": path.parent / config.spool.path})
    return config.model_copy(update={"spool": spool})

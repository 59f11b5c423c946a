"""The agent's config file, gateway.toml: frozen, every unit in its key's name, unknown keys refused."""

import re
import tomllib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from telemetry.errors import ConfigError

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,127}$")]
Port = Annotated[int, Field(ge=1, le=65535)]


class Section(BaseModel):
    """Base of every section."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Tls(Section):
    """TLS towards a broker; without `ca_file` the system's certificates are trusted."""

    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None


class Broker(Section):
    """How to reach an MQTT broker. The password may come from a file that only the agent may read."""

    host: str = "127.0.0.1"
    port: Port = 1883
    username: str | None = None
    password: str | None = None
    password_file: Path | None = None
    tls: Tls | None = None
    keepalive_s: Annotated[int, Field(ge=5, le=3600)] = 30

    @model_validator(mode="after")
    def _one_password(self) -> "Broker":
        if self.password is not None and self.password_file is not None:
            raise ValueError("give password or password_file, not both")
        return self

    def secret(self) -> str | None:
        """The password, read from its file if it is kept in one. Raises ConfigError."""
        if self.password_file is None:
            return self.password
        try:
            return self.password_file.read_text().rstrip("\n")
        except OSError as error:
            raise ConfigError(f"cannot read password_file {self.password_file}: {error.strerror}") from error


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
    batch_age_s_max: Annotated[float, Field(ge=0)] = 0.5
    window_batches_max: Annotated[int, Field(ge=1)] = 16
    resend_s_min: Annotated[float, Field(gt=0)] = 10.0
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
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: is not valid TOML: {error}") from error
    try:
        config = GatewayConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError("\n".join(f"{path}: {line}" for line in sentences(error))) from error
    spool = config.spool.model_copy(update={"path": path.parent / config.spool.path})
    return config.model_copy(update={"spool": spool})


def sentences(error: ValidationError) -> list[str]:
    """pydantic's findings as `key must …, got …`."""
    return [_sentence(dict(finding)) for finding in error.errors()]


def _sentence(finding: dict[str, object]) -> str:
    location = finding["loc"]
    assert isinstance(location, tuple)
    key = ".".join(str(part) for part in location)
    kind, message, given = finding["type"], str(finding["msg"]), finding["input"]
    if kind == "missing":
        return f"{key} is missing"
    if kind == "extra_forbidden":
        return f"{key} is not a known key"
    message = re.sub(r"^(Input|String|Value error,) ?(should )?", "", message)
    message = message.replace("greater than or equal to", ">=").replace("less than or equal to", "<=")
    message = message.replace("greater than", ">").replace("less than", "<")
    if kind == "value_error":
        return f"{key}: {message}" if key else message
    shown = "***" if "password" in key else repr(given)
    return f"{key} must {message}, got {shown}"

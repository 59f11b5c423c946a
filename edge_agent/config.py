"""The agent's config file, gateway.toml: frozen, every unit in its key's name, unknown keys refused.

`docs/gateway.toml` shows every key with its default. Paths in the file are relative to the file.
"""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from broker_bridge.config import Broker
from broker_bridge.uplink import Limits
from telemetry.config import Name, Port, Section, load_toml, with_profile
from telemetry.wire import WIRE_BYTES_MAX


def _topic_filter(topic: str) -> str:
    """A topic filter of MQTT 3.1.1 4.7: `+` and `#` are segments of their own, `#` the last one."""
    *others, last = topic.split("/")
    segments = [*others, "+" if last == "#" else last]
    wrong = any(segment != "+" and re.search(r"[+#\0]", segment) for segment in segments)
    if not topic or wrong or len(topic.encode()) > 65_535:
        raise PydanticCustomError("topic", "be an MQTT topic filter, such as devices/+/telemetry")
    return topic


def _pattern(topic: str) -> str:
    """A mapping's topic: segments that are text, `+`, or, exactly once, `{device}`."""
    segments = topic.split("/")
    others = [segment for segment in segments if segment not in ("+", "{device}")]
    if segments.count("{device}") != 1 or any(re.search(r"[+#{}\0]", segment) for segment in others):
        raise PydanticCustomError("pattern", "have segments of text or +, and {device} as exactly one whole segment")
    return topic


def _ip_address(address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise PydanticCustomError("address", "be an IP address, such as 0.0.0.0 or ::") from None
    return address


def _not_empty(topics: tuple[str, ...]) -> tuple[str, ...]:
    if not topics:
        raise PydanticCustomError("topics", "have at least one topic; without topics leave the section out")
    return topics


TopicFilter = Annotated[str, AfterValidator(_topic_filter)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Unit = Annotated[str, StringConstraints(max_length=32)]

BATCH_BYTES_MAX = WIRE_BYTES_MAX * 3 // 4
"""Uncompressed, so that a batch which cannot be compressed stays below the trunk's limit."""

PROFILES = {"low_latency": {"uplink": {"batch_age_s_max": 0.02}}}
"""What a profile changes; keys that are in the file win."""


class Mqtt(Broker):
    """The MQTT collector: which topics of the device broker to subscribe to."""

    client_id: Name | None = None  # default: fieldline-<gateway>
    version: Literal["auto", "5", "3.1.1"] = "auto"
    topics: Annotated[tuple[TopicFilter, ...], AfterValidator(_not_empty)] = ("devices/+/telemetry",)
    chunk_bytes_max: Annotated[int, Field(ge=4096)] = 4 * 1024 * 1024


class Coap(Section):
    """The CoAP server."""

    bind: Annotated[str, AfterValidator(_ip_address)] = "0.0.0.0"
    port: Port = 5683
    requests_max: Annotated[int, Field(ge=1)] = 1000
    commit_wait_s_max: Seconds = 20.0


class Mapping(Section):
    """Which part of a topic names the device, and how payloads under it are decoded."""

    topic: Annotated[str, AfterValidator(_pattern)] = "devices/{device}/telemetry"
    format: Literal["json"] = "json"
    units: dict[str, Unit] = Field(default_factory=dict)  # metric -> unit


class Sparkplug(Section):
    """Sparkplug B: how its edge nodes and their devices are called, and whether they are asked for rebirths."""

    device: Literal["group/node/device", "node/device"] = "group/node/device"
    request_rebirth: bool = True
    rebirth_interval_s: Seconds = 30.0  # per edge node


class Collect(Section):
    """Limits that hold for every protocol."""

    payload_bytes_max: Annotated[int, Field(ge=64, le=16 * 1024 * 1024)] = 256 * 1024
    dead_letter_bytes_max: Annotated[int, Field(ge=64, le=1024 * 1024)] = 1024 * 1024
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
    batch_bytes_max: Annotated[int, Field(ge=4096, le=BATCH_BYTES_MAX)] = 1024 * 1024
    batch_age_s_max: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.5
    window_batches_max: Annotated[int, Field(ge=1)] = 16
    resend_s: Seconds = 10.0
    reconnect_s_max: Seconds = 30.0

    @property
    def limits(self) -> Limits:
        """As the uplink takes them."""
        return Limits(
            batch_rows_max=self.batch_rows_max,
            batch_bytes_max=self.batch_bytes_max,
            batch_age_s_max=self.batch_age_s_max,
            window_batches_max=self.window_batches_max,
            resend_s=self.resend_s,
            reconnect_s_max=self.reconnect_s_max,
        )


class GatewayConfig(Section):
    """The whole file."""

    gateway: Name
    profile: Literal["default", "low_latency"] = "default"
    mqtt: Mqtt | None = None
    coap: Coap | None = None
    mappings: tuple[Mapping, ...] = (Mapping(),)
    sparkplug: Sparkplug | None = None
    collect: Collect = Collect()
    spool: Spool = Spool()
    uplink: Uplink = Uplink()

    @model_validator(mode="before")
    @classmethod
    def _as_in_the_profile(cls, raw: object) -> object:
        return with_profile(raw, PROFILES)

    @model_validator(mode="after")
    def _collects_something(self) -> "GatewayConfig":
        if self.mqtt is None and self.coap is None:
            raise ValueError("nothing to collect: add a section [mqtt] or [coap]")
        return self

    @model_validator(mode="after")
    def _one_commit_fits(self) -> "GatewayConfig":
        delivery_bytes = self.collect.payload_bytes_max + (self.mqtt.chunk_bytes_max if self.mqtt else 0)
        if self.spool.bytes_max < 4 * delivery_bytes:
            raise ValueError(
                f"spool.bytes_max must be at least {4 * delivery_bytes}, four times what may come at once "
                "(collect.payload_bytes_max and mqtt.chunk_bytes_max)"
            )
        return self


def load(path: Path) -> GatewayConfig:
    """Parse and check a config file. Raises ConfigError, one line per problem: `file: key must …, got …`."""
    return load_toml(path, GatewayConfig)

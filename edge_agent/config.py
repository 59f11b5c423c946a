"""The agent's config file, gateway.toml: frozen, every unit in its key's name, unknown keys refused.

`docs/gateway.toml` shows every key with its default. Paths in the file are relative to the file.
"""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, StringConstraints, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from broker_bridge.config import Broker
from broker_bridge.uplink import Limits
from edge_agent.expression import ExpressionError, parse
from edge_agent.profiles import expanded
from edge_agent.readings import NAME_CHARS_MAX, UNIT_CHARS_MAX
from telemetry import tags
from telemetry.config import Name, Port, Section, load_toml, parse_toml, with_profile
from telemetry.wire import WIRE_BYTES_MAX


def is_place(segment: str) -> bool:
    """Whether a segment of a mapping's topic stands for any text."""
    return segment == "+" or (segment[:1] == "{" and segment[-1:] == "}")


def topic_tags(topic: str) -> list[str]:
    """The names of the segments of a mapping's topic that become tags."""
    names = [segment[1:-1] for segment in topic.split("/") if segment[:1] == "{" and is_place(segment)]
    return [name for name in names if name not in ("device", "metric")]


def _topic_filter(topic: str) -> str:
    """A topic filter of MQTT 3.1.1 4.7: `+` and `#` are segments of their own, `#` the last one."""
    *others, last = topic.split("/")
    segments = [*others, "+" if last == "#" else last]
    wrong = any(segment != "+" and re.search(r"[+#\0]", segment) for segment in segments)
    if not topic or wrong or len(topic.encode()) > 65_535:
        raise PydanticCustomError("topic", "be an MQTT topic filter, such as devices/+/telemetry")
    return topic


def _pattern(topic: str, info: ValidationInfo) -> str:
    """A mapping's topic: segments that are text, `+`, `{metric}`, `{tag}` of any name, or, exactly once, `{device}`.

    One that is ignored is a topic filter, and may have these for `+`.
    """
    segments = topic.split("/")
    if info.data.get("ignore"):
        _topic_filter("/".join("+" if is_place(segment) else segment for segment in segments))
        return topic
    others = [segment for segment in segments if not is_place(segment)]
    if segments.count("{device}") != 1 or any(re.search(r"[+#{}\0]", segment) for segment in others):
        raise PydanticCustomError(
            "pattern",
            "have segments of text, +, {metric} or the {name} of a tag, and {device} as exactly one whole segment",
        )
    names = topic_tags(topic)
    if len(set(names)) != len(names) or not all(tags.KEY.fullmatch(name) for name in names):
        raise PydanticCustomError(
            "pattern", "name each tag once, by a letter and then letters, digits, . _ or -, such as {site}"
        )
    return topic


def _topic(topic: str) -> str:
    """A topic that a message can have: no wildcards."""
    if not topic or re.search(r"[+#{}\0]", topic):
        raise PydanticCustomError("topic", "be a topic without wildcards, such as telemetry/boiler")
    return topic


def _coap_uri(uri: str) -> str:
    """A URI of RFC 7252 6.1."""
    try:
        parts = urlsplit(uri)
        good = parts.scheme == "coap" and parts.hostname and not parts.fragment and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise PydanticCustomError("uri", "be a CoAP URI, such as coap://192.0.2.7/temperature")
    return uri


def _path(path: str) -> str:
    if not all(path.split(".")):
        raise PydanticCustomError("path", "be a path, such as data.0.temperature")
    return path


def _expression(text: str) -> str:
    try:
        parse(text)
    except ExpressionError as error:
        raise PydanticCustomError("expression", "be an expression: {why}", {"why": str(error)}) from None
    return text


def _time_zone(zone: str) -> str:
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, ZoneInfoNotFoundError):
        raise PydanticCustomError("time_zone", "be a time zone of this machine, such as Europe/Berlin or UTC") from None
    return zone


def _ip_address(address: str) -> str:
    try:
        ipaddress.ip_address(address)
    except ValueError:
        raise PydanticCustomError("address", "be an IP address, such as 0.0.0.0 or ::") from None
    return address


def _tags(given: dict[str, str]) -> dict[str, str]:
    try:
        tags.pack(given)
    except ValueError as error:
        raise PydanticCustomError("tags", "be tags: {error}", {"error": str(error)}) from None
    return given


def _not_empty(topics: tuple[str, ...]) -> tuple[str, ...]:
    if not topics:
        raise PydanticCustomError("topics", "have at least one topic; without topics leave the section out")
    return topics


TopicFilter = Annotated[str, AfterValidator(_topic_filter)]
Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Finite = Annotated[float, Field(ge=-1e12, le=1e12)]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARS_MAX)]
"""Of names, as shells have it: * ? and [...]."""
Aggregate = Literal["count", "min", "max", "mean", "last", "stddev"]
TimeUnit = Literal["s", "ms", "us", "ns"]
Unit = Annotated[str, StringConstraints(max_length=UNIT_CHARS_MAX)]
Renamed = Annotated[str, StringConstraints(min_length=1, max_length=NAME_CHARS_MAX)]
FieldPath = Annotated[str, AfterValidator(_path)]
Tags = Annotated[dict[str, str], AfterValidator(_tags)]

ONE_VALUE = ("text",)
"""Formats whose messages are one value; the topic may name its metric."""

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


class CoapResource(Section):
    """A resource of a device that is a CoAP server: the agent reads it."""

    uri: Annotated[str, AfterValidator(_coap_uri)]
    topic: Annotated[str, AfterValidator(_topic)]
    mode: Literal["observe", "poll"] = "observe"
    every_s: Seconds = 10.0
    silence_s_max: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 300.0


class Dtls(Section):
    """CoAP over DTLS with pre-shared keys."""

    psk_file: Path
    port: Port = 5684
    sessions_max: Annotated[int, Field(ge=1, le=100_000)] = 1000


class Oscore(Section):
    """CoAP protected by OSCORE, on the ports of the server."""

    keys_file: Path
    required: bool = False


class Coap(Section):
    """The CoAP server, and what to read of others."""

    listen: bool = True
    bind: Annotated[str, AfterValidator(_ip_address)] = "0.0.0.0"
    port: Port = 5683
    requests_max: Annotated[int, Field(ge=1)] = 1000
    commit_wait_s_max: Seconds = 20.0
    dtls: Dtls | None = None
    oscore: Oscore | None = None
    resources: Annotated[tuple[CoapResource, ...], Field(max_length=1000)] = ()

    @property
    def serves(self) -> bool:
        """Whether there is a server, in the clear or with DTLS."""
        return self.listen or self.dtls is not None


class Csv(Section):
    """Options of format csv. The columns are named here, or by the first line of each message."""

    columns: Annotated[tuple[str, ...], Field(max_length=4096)] | None = None  # "": one not taken
    header: bool = False
    delimiter: Literal[",", ";", "\t", "|"] = ","
    decimal_comma: bool = False
    time_column: Annotated[str, StringConstraints(min_length=1)] = "ts"
    time_format: Literal["iso8601"] | TimeUnit = "iso8601"
    time_zone: Annotated[str, AfterValidator(_time_zone)] | None = None

    @model_validator(mode="after")
    def _knows_its_columns(self) -> "Csv":
        named = [column for column in self.columns or () if column]
        if self.header == bool(self.columns):
            raise ValueError("give columns, or header = true if the first line of each message names them")
        if len(set(named)) != len(named):
            raise ValueError("columns must have different names")
        if self.columns and not set(named) - {self.time_column}:
            raise ValueError("columns must name one beside the time's")
        if self.decimal_comma and self.delimiter == ",":
            raise ValueError("decimal_comma needs another delimiter than ','")
        if self.time_zone and self.time_format != "iso8601":
            raise ValueError("time_zone is for time_format = 'iso8601'; numbers count from 1970 UTC")
        return self


class Influx(Section):
    """Options of format influx."""

    precision: TimeUnit = "ns"
    measurement: str | None = None
    device_tag: str | None = None


class StructField(Section):
    """A field of a fixed layout. Its reading is scale times the number in it, plus offset. pad: bytes to skip."""

    name: str = ""
    type: Literal["u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64", "f32", "f64", "bool", "pad"]
    scale: Annotated[float, Field(ge=1e-12, le=1e12)] = 1.0
    offset: Annotated[float, Field(ge=-1e12, le=1e12)] = 0.0
    bytes: Annotated[int, Field(ge=1, le=65536)] = 1  # of a pad

    @model_validator(mode="after")
    def _is_a_pad_or_has_a_name(self) -> "StructField":
        if (self.type == "pad") == bool(self.name):
            raise ValueError("every field but a pad must have a name, and a pad none")
        if self.type != "pad" and self.bytes != 1:
            raise ValueError("bytes is for fields of type pad")
        return self


class Struct(Section):
    """Options of format struct: what is in each record, byte by byte. A field "ts" is the time."""

    byte_order: Literal["little", "big"] = "little"
    time_unit: TimeUnit = "s"
    fields: Annotated[tuple[StructField, ...], Field(max_length=4096)]

    @model_validator(mode="after")
    def _has_metrics(self) -> "Struct":
        names = [field.name for field in self.fields if field.type != "pad"]
        if len(set(names)) != len(names):
            raise ValueError("fields must have different names")
        if not set(names) - {"ts"}:
            raise ValueError("fields must have one beside ts and pads")
        if any(
            field.name == "ts" and (field.type == "bool" or field.scale != 1 or field.offset) for field in self.fields
        ):
            raise ValueError("ts must be a plain number of time_unit")
        return self


class Objects(Section):
    """What is taken from objects that are more than a flat one of metrics, see `edge_agent.formats.objects`."""

    readings: FieldPath | Literal[""] = ""
    fields: dict[str, FieldPath] = Field(default_factory=dict)  # metric -> path
    ignore: tuple[FieldPath, ...] = ()
    join: Annotated[str, StringConstraints(min_length=1, max_length=4)] = "."
    time: FieldPath = "ts"
    time_unit: Literal["auto"] | TimeUnit = "auto"
    time_zone: Annotated[str, AfterValidator(_time_zone)] | None = None


class Mapping(Section):
    """Which part of a topic names the device, and how payloads under it are decoded."""

    ignore: bool = False
    topic: Annotated[str, AfterValidator(_pattern)] = "devices/{device}/telemetry"
    format: Literal["cbor", "csv", "influx", "json", "msgpack", "senml-cbor", "senml-json", "struct", "text"] = "json"
    only: tuple[str, ...] | None = None
    rename: dict[str, Renamed] = Field(default_factory=dict)  # the device's metric -> ours
    units: dict[str, Unit] = Field(default_factory=dict)  # metric -> unit
    tags: Tags = Field(default_factory=dict)
    cbor: Objects | None = None
    csv: Csv | None = None
    influx: Influx | None = None
    json_: Annotated[Objects | None, Field(alias="json")] = None  # BaseModel has a method `json`
    msgpack: Objects | None = None
    struct: Struct | None = None

    @model_validator(mode="after")
    def _is_ignored_or_not(self) -> "Mapping":
        if self.ignore and self.model_fields_set - {"ignore", "topic"}:
            raise ValueError("a mapping with ignore = true has a topic and nothing else")
        return self

    @model_validator(mode="after")
    def _renames_to_different_names(self) -> "Mapping":
        if len(set(self.rename.values())) != len(self.rename):
            raise ValueError("rename must give different names, or two metrics would become one")
        return self

    @model_validator(mode="after")
    def _has_the_section_of_its_format(self) -> "Mapping":
        sections = {
            "cbor": self.cbor,
            "csv": self.csv,
            "influx": self.influx,
            "json": self.json_,
            "msgpack": self.msgpack,
            "struct": self.struct,
        }
        for name, section in sections.items():
            if section is not None and self.format != name:
                raise ValueError(f"the section {name} is for format = {name!r}, here it is {self.format!r}")
        if self.format in ("csv", "struct") and sections[self.format] is None:
            raise ValueError(f"format {self.format!r} needs a section [mappings.{self.format}] that says what is in it")
        return self

    @model_validator(mode="after")
    def _names_each_metric_once(self) -> "Mapping":
        if "{metric}" in self.topic.split("/") and self.format not in ONE_VALUE and not self.ignore:
            raise ValueError(
                f"topic names the metric, and so does the payload in format {self.format!r}. "
                "Remove {metric}, or use format = 'text', which takes one value per topic"
            )
        return self


class Device(Section):
    """What is otherwise for one device, which a topic names so. See `edge_agent.naming`."""

    name: Renamed | None = None
    ignore: bool | tuple[str, ...] = ()  # all of it, or metrics by the device's names
    only: tuple[str, ...] | None = None
    rename: dict[str, Renamed] = Field(default_factory=dict)
    units: dict[str, Unit] = Field(default_factory=dict)
    tags: Tags = Field(default_factory=dict)

    @property
    def ignored(self) -> tuple[str, ...]:
        """The metrics that are not taken."""
        return () if isinstance(self.ignore, bool) else self.ignore

    @model_validator(mode="after")
    def _can_be_obeyed(self) -> "Device":
        if self.ignore is True and self.model_fields_set != {"ignore"}:
            raise ValueError("a device with ignore = true has nothing else")
        if len(set(self.rename.values())) != len(self.rename):
            raise ValueError("rename must give different names, or two metrics would become one")
        return self


class Sparkplug(Section):
    """Sparkplug B: how its edge nodes and their devices are called, and whether they are asked for rebirths."""

    device: Literal["group/node/device", "node/device"] = "group/node/device"
    request_rebirth: bool = True
    rebirth_interval_s: Seconds = 30.0  # per edge node


class Derived(Section):
    """A metric that is computed from others of the same message, see `edge_agent.derived`."""

    metric: Renamed
    device: Pattern = "*"
    expression: Annotated[str, AfterValidator(_expression)]
    unit: Unit = ""


class Process(Section):
    """What is done to the readings of a metric before they are spooled, see `edge_agent.processing`."""

    metric: Pattern
    device: Pattern = "*"
    unit: Unit | None = None
    unit_from: Annotated[Unit, StringConstraints(min_length=1)] | None = None
    scale: Finite = 1.0
    offset: Finite = 0.0
    value_min: Finite | None = None
    value_max: Finite | None = None
    interval_s_min: Seconds | None = None
    deadband: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    deadband_percent: Annotated[float, Field(ge=0, le=100)] | None = None
    heartbeat_s: Seconds = 3600.0
    window_s: Annotated[float, Field(ge=1, le=86_400)] | None = None
    aggregates: Annotated[tuple[Aggregate, ...], Field(min_length=1)] = ("min", "max", "mean")
    keep_raw: bool = False

    @property
    def has_deadband(self) -> bool:
        """Whether readings that say nothing new are left out."""
        return self.deadband is not None or self.deadband_percent is not None

    def keeping_all(self) -> "Process":
        """The same without what leaves readings out."""
        thins = ("interval_s_min", "deadband", "deadband_percent", "window_s")
        return self.model_copy(update=dict.fromkeys(thins))

    @model_validator(mode="after")
    def _can_be_obeyed(self) -> "Process":
        if self.unit_from is not None and (not self.unit or self.model_fields_set & {"scale", "offset"}):
            raise ValueError("unit_from needs unit, and neither scale nor offset: it gives them")
        if self.scale == 0:
            raise ValueError("scale must not be 0, every reading would become offset")
        if self.value_min is not None and self.value_max is not None and self.value_min > self.value_max:
            raise ValueError("value_min must not be above value_max, every reading would be bad")
        if "heartbeat_s" in self.model_fields_set and not self.has_deadband:
            raise ValueError("heartbeat_s is how long a deadband keeps silent: give deadband or deadband_percent, too")
        if self.has_deadband and self.heartbeat_s < (self.interval_s_min or 0):
            raise ValueError("heartbeat_s must not be below interval_s_min, which comes first")
        if self.window_s is None and self.model_fields_set & {"aggregates", "keep_raw"}:
            raise ValueError("aggregates and keep_raw are of a window: give window_s, too")
        if self.window_s is not None and not self.keep_raw and (self.has_deadband or self.interval_s_min):
            raise ValueError("deadband and interval_s_min are for raw readings: beside window_s give keep_raw = true")
        return self


class Collect(Section):
    """Limits that hold for every protocol."""

    payload_bytes_max: Annotated[int, Field(ge=64, le=16 * 1024 * 1024)] = 256 * 1024
    dead_letter_bytes_max: Annotated[int, Field(ge=64, le=1024 * 1024)] = 1024 * 1024
    series_max: Annotated[int, Field(ge=1)] = 1_000_000
    commit_delay_ms: Annotated[int, Field(ge=0, le=10_000)] = 5
    commit_records_max: Annotated[int, Field(ge=1)] = 50_000


class Time(Section):
    """Which times are believed: of devices, see `edge_agent.plausibility`; the gateway's own, see `edge_agent.boot`."""

    device_ahead_s_max: Annotated[float, Field(ge=0, le=1e10)] = 86_400.0
    device_behind_days_max: Annotated[float, Field(ge=0, le=100_000)] = 36_500.0
    offsets_s: dict[str, Annotated[float, Field(ge=-3e9, le=3e9)]] = Field(default_factory=dict)  # device -> ahead by
    device_off_s_min: Annotated[float, Field(ge=0, le=1e9)] = 60.0
    wait_for_clock: bool = True


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
    tags: Tags = Field(default_factory=dict)
    mappings: tuple[Mapping, ...] = (Mapping(),)
    devices: Annotated[dict[Renamed, Device], Field(max_length=10_000)] = Field(default_factory=dict)
    sparkplug: Sparkplug | None = None
    derived: Annotated[tuple[Derived, ...], Field(max_length=1000)] = ()
    process: Annotated[tuple[Process, ...], Field(max_length=1000)] = ()
    collect: Collect = Collect()
    time: Time = Time()
    spool: Spool = Spool()
    uplink: Uplink = Uplink()

    @model_validator(mode="before")
    @classmethod
    def _as_in_the_profile(cls, raw: object) -> object:
        return with_profile(raw, PROFILES)

    @field_validator("mappings", mode="before")
    @classmethod
    def _with_profiles(cls, mappings: object) -> object:
        return expanded(mappings)

    @field_validator("process")
    @classmethod
    def _with_conversions(cls, process: tuple[Process, ...]) -> tuple[Process, ...]:
        """The scale and offset of sections that name the unit their values come in."""
        pairs = {(rule.unit_from, rule.unit): None for rule in process if rule.unit_from and rule.unit}
        if not pairs:
            return process
        from edge_agent.units import conversions  # noqa: PLC0415 - what it imports costs memory

        known = dict(zip(pairs, conversions(list(pairs)), strict=True))
        found = []
        for place, rule in enumerate(process):
            conversion = known.get((rule.unit_from or "", rule.unit or ""))
            if isinstance(conversion, str):
                raise ValueError(f"section {place}: {conversion}")  # noqa: TRY004 - of a value, not a type
            found.append(rule if conversion is None else rule.model_copy(update=conversion._asdict()))
        return tuple(found)

    @model_validator(mode="after")
    def _collects_something(self) -> "GatewayConfig":
        if self.mqtt is None and not (self.coap and (self.coap.serves or self.coap.resources)):
            raise ValueError("nothing to collect: add a section [mqtt] or [coap]")
        return self

    @field_validator("devices")
    @classmethod
    def _different_names(cls, devices: dict[str, Device]) -> dict[str, Device]:
        names = [device.name for device in devices.values() if device.name is not None]
        if len(set(names)) != len(names):
            raise ValueError("the names of devices must be different, or two devices would become one")
        return devices

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


def of_text(text: str, name: str) -> GatewayConfig:
    """A config that is no file; `name` is what errors call it. Raises ConfigError."""
    return parse_toml(text, name, GatewayConfig)

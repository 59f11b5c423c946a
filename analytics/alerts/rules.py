"""Rules and channels of alerts.toml. A rule that a person adds in the dashboard is the same, as JSON in a table."""

import json
import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from broker_bridge.config import Broker
from ingest.clickhouse.address import address
from telemetry.config import Name, Port, Section, load_toml, relative_to, sentences
from telemetry.errors import ConfigError

RULES_MAX = 1000
DAY_S = 86_400
Seconds = Annotated[int, Field(ge=1, le=366 * DAY_S)]
Number = Annotated[float, Field(allow_inf_nan=False)]
Timeout = Annotated[float, Field(gt=0, le=60)]
Mailbox = Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+$")]
Pattern = Annotated[str, Field(min_length=1, max_length=256)]
"""A name, or one with * and ? as a shell has them."""


class _Rule(Section):
    """What every rule has. repeat_s: while it fires, tell again after so long; 0: once."""

    name: Annotated[str, Field(min_length=1, max_length=128)]
    severity: Literal["info", "warning", "critical"] = "warning"
    notify: tuple[Name, ...] = ("log",)
    repeat_s: Annotated[int, Field(ge=0, le=366 * DAY_S)] = 0
    note: Annotated[str, Field(max_length=2000)] = ""


class _Limit(_Rule):
    """above or below, and until where an alert lasts (hysteresis). Not given: the limit itself."""

    device: Pattern = "*"
    metric: Pattern
    above: Number | None = None
    below: Number | None = None
    clear: Number | None = None

    @model_validator(mode="after")
    def _one_limit(self) -> "_Limit":
        if (self.above is None) == (self.below is None):
            raise ValueError("give either above or below")
        if self.clear is not None:
            if self.above is not None and self.clear > self.above:
                raise ValueError(f"clear must be <= above, got {self.clear:g}")
            if self.below is not None and self.clear < self.below:
                raise ValueError(f"clear must be >= below, got {self.clear:g}")
        return self

    @property
    def limit(self) -> float:
        limit = self.below if self.above is None else self.above
        assert limit is not None
        return limit

    @property
    def end(self) -> float:
        """Where an alert is over."""
        return self.limit if self.clear is None else self.clear


class Threshold(_Limit):
    """A value is beyond a limit in every reading of the last `for_s` seconds; 0: in one."""

    kind: Literal["threshold"]
    for_s: Annotated[int, Field(ge=0, le=DAY_S)] = 0


class Rate(_Limit):
    """A value changes by more than a limit per `per_s`, seen over the last `over_s`."""

    kind: Literal["rate"]
    over_s: Annotated[int, Field(ge=1, le=DAY_S)] = 600
    per_s: Seconds = 3600


class Silence(_Rule):
    """Nothing came for `after_s`, of devices or gateways that were heard within the last `forget_s`."""

    kind: Literal["silence"]
    of: Literal["device", "gateway"] = "device"
    match: Pattern = "*"
    after_s: Seconds
    forget_s: Seconds = 30 * DAY_S

    @model_validator(mode="after")
    def _is_remembered_long_enough(self) -> "Silence":
        if self.forget_s <= self.after_s:
            raise ValueError(f"forget_s must be > after_s, got {self.forget_s}")
        return self


class Anomaly(_Rule):
    """The mean of the last full hour is far from that of the same hour in the weeks before.

    Far: from their median by more than `factor` times their spread (the median absolute deviation, scaled to a standard
    deviation), and by more than `difference_min`. Asked only with `weeks_min` weeks at least.
    """

    kind: Literal["anomaly"]
    device: Pattern = "*"
    metric: Pattern
    weeks: Annotated[int, Field(ge=2, le=52)] = 8
    weeks_min: Annotated[int, Field(ge=2, le=52)] = 3
    factor: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 5.0
    difference_min: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.0

    @model_validator(mode="after")
    def _weeks_suffice(self) -> "Anomaly":
        if self.weeks_min > self.weeks:
            raise ValueError(f"weeks_min must be <= weeks, got {self.weeks_min}")
        return self


class DeadLetters(_Rule):
    """More than `above` dead letters of a gateway came within the last `over_s`."""

    kind: Literal["dead_letters"]
    gateway: Pattern = "*"
    above: Annotated[int, Field(ge=0)] = 0
    over_s: Annotated[int, Field(ge=1, le=DAY_S)] = 3600


AnyRule = Threshold | Rate | Silence | Anomaly | DeadLetters
Rule = Annotated[AnyRule, Field(discriminator="kind")]
_ONE: TypeAdapter[AnyRule] = TypeAdapter(Rule)


class Log(Section):
    """Lines in the program's own log."""

    kind: Literal["log"]


class Webhook(Section):
    """A POST of JSON. token_file: sent as `Authorization: Bearer`."""

    kind: Literal["webhook"]
    url: Annotated[str, Field(pattern=r"^https?://[^\s]+$")]
    token_file: Path | None = None
    timeout_s: Timeout = 10.0


class Mqtt(Broker):
    """A message of JSON, QoS 1, for each alert. `topic` may have {rule}, {device}, {metric}, {gateway}."""

    kind: Literal["mqtt"]
    topic: Annotated[str, Field(min_length=1, max_length=1024, pattern=r"^[^#+\x00]+$")] = "fieldline/alerts/{rule}"
    retain: bool = False
    timeout_s: Timeout = 10.0

    @field_validator("topic")
    @classmethod
    def _fields_are_known(cls, topic: str) -> str:
        try:
            topic.format(rule="", device="", metric="", gateway="")
        except (KeyError, ValueError, IndexError, AttributeError) as error:
            raise ValueError(f"{topic!r} may have {{rule}}, {{device}}, {{metric}} and {{gateway}}") from error
        return topic


class Email(Section):
    """A mail for all alerts of a rule that change at the same time."""

    kind: Literal["email"]
    host: str
    port: Port = 587
    security: Literal["starttls", "tls", "none"] = "starttls"
    ca_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None
    sender: Mailbox
    recipients: Annotated[tuple[Mailbox, ...], Field(min_length=1)]
    timeout_s: Timeout = 15.0

    @model_validator(mode="after")
    def _a_login_is_whole(self) -> "Email":
        if (self.username is None) != (self.password_file is None):
            raise ValueError("give both username and password_file, or neither")
        return self


def secret(file: Path) -> str:
    """What is in the file, without the line's end. Raises ConfigError."""
    try:
        return file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {file}: {error}") from error


AnyChannel = Log | Webhook | Mqtt | Email
Channel = Annotated[AnyChannel, Field(discriminator="kind")]


class AlertsConfig(Section):
    """The whole file. every_s: how often the rules are asked."""

    clickhouse_url: str | None = None
    every_s: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    channels: dict[Name, Channel] = Field(default_factory=dict)
    rules: Annotated[tuple[Rule, ...], Field(max_length=RULES_MAX)] = ()

    @field_validator("clickhouse_url")
    @classmethod
    def _url_is_readable(cls, url: str | None) -> str | None:
        try:
            address(url)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return url

    @model_validator(mode="after")
    def _names_are_right(self) -> "AlertsConfig":
        seen: set[str] = set()
        for rule in self.rules:
            if rule.name in seen:
                raise ValueError(f"two rules are named {rule.name!r}")
            seen.add(rule.name)
            for name in rule.notify:
                if name != "log" and name not in self.channels:
                    raise ValueError(f"the rule {rule.name!r} notifies {name!r}; there is no [channels.{name}]")
        return self


def load(path: Path) -> AlertsConfig:
    """Parse and check a file; paths in it are relative to it. Raises ConfigError, one line per problem."""
    config = load_toml(path, AlertsConfig)
    channels = {name: relative_to(path.parent, channel) for name, channel in config.channels.items()}
    return config.model_copy(update={"channels": channels})


def of_json(text: str) -> AnyRule:
    """A rule as the table keeps it. Raises ConfigError."""
    try:
        return _ONE.validate_python(json.loads(text))
    except ValidationError as error:
        raise ConfigError("\n".join(sentences(error))) from error
    except ValueError as error:
        raise ConfigError(f"is not JSON: {error}") from error


def as_regex(pattern: str) -> str:
    """A pattern for ClickHouse's `match` (RE2), over the whole name."""
    return "(?s)^" + "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in pattern) + "$"

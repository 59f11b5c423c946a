"""docs/alerts.toml shows every key with its default, and can be used."""

import re
import tomllib
from pathlib import Path

from pydantic import BaseModel

from analytics.alerts.rules import (
    AlertsConfig,
    Anomaly,
    DeadLetters,
    Email,
    Mqtt,
    Rate,
    Silence,
    Threshold,
    Webhook,
    load,
)
from broker_bridge.config import Tls

SAMPLE = Path(__file__).parents[3] / "docs" / "alerts.toml"
COMMON = {"name", "severity", "notify", "repeat_s", "note"}  # explained once for all rules
SECRETS = {"password"}  # password_file is what one should use


def shown() -> dict[str, object]:
    return tomllib.loads(re.sub(r"(?m)^#(?=[a-z\[])", "", SAMPLE.read_text()))


def test_the_sample_is_usable_as_it_is_and_with_all_of_its_examples() -> None:
    assert load(SAMPLE) == AlertsConfig()
    AlertsConfig.model_validate(shown())


def test_the_sample_shows_every_key_with_its_default() -> None:
    all_of_it = shown()
    assert AlertsConfig.model_fields.keys() == all_of_it.keys()
    channels = {channel["kind"]: channel for channel in all_of_it["channels"].values()}  # type: ignore[union-attr]
    rules = {rule["kind"]: rule for rule in all_of_it["rules"]}  # type: ignore[index]
    for model in (Webhook, Mqtt, Email):
        compare(channels.pop(kind(model)), model, SECRETS | {"tls"})
    compare(all_of_it["channels"]["plant"]["tls"], Tls, set())  # type: ignore[index]
    for rule in (Threshold, Rate, Silence, Anomaly, DeadLetters):
        compare(rules.pop(kind(rule)), rule, COMMON | {"above", "below"})
    assert not channels
    assert not rules


def kind(model: type[BaseModel]) -> str:
    return model.model_fields["kind"].annotation.__args__[0]  # type: ignore[union-attr]


def compare(said: dict[str, object], model: type[BaseModel], left_out: set[str]) -> None:
    for key, field in model.model_fields.items():
        if key in left_out:
            continue
        assert key in said, f"{key} of {model.__name__} is not in docs/alerts.toml"
        if key != "of" and not field.is_required() and field.default is not None:
            assert said[key] == field.default, key

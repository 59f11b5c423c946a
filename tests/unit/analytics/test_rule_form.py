"""Rules of alerts as a form: whatever a rule may be, the form shows it and gives it back; what is wrong is said."""

import json
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.alerts.rules import AnyRule, of_json
from analytics.web.rule_form import COMMON, FIELDS, KINDS, described, filled, seconds, suggested, written
from telemetry.errors import ConfigError

NAMES = st.text("abcdé-_*? 1", min_size=1, max_size=12).map(str.strip).filter(bool)
NUMBERS = st.floats(-1e12, 1e12) | st.integers(-(10**9), 10**9)
DAY = st.integers(1, 86_400)
LIMIT = st.tuples(st.sampled_from(["above", "below"]), NUMBERS).map(lambda pair: dict([pair]))
COMMON_KEYS = st.fixed_dictionaries(
    {"name": NAMES},
    optional={
        "severity": st.sampled_from(["info", "warning", "critical"]),
        "notify": st.lists(st.sampled_from(["log", "ops", "mail"]), min_size=1, max_size=3),
        "repeat_s": DAY,
        "note": NAMES,
    },
)
SERIES: Any = {"metric": NAMES, "device": NAMES}
OWN: dict[str, st.SearchStrategy[dict[str, Any]]] = {
    "threshold": st.builds(lambda own, limit: own | limit, st.fixed_dictionaries(SERIES | {"for_s": DAY}), LIMIT),
    "rate": st.builds(
        lambda own, limit: own | limit, st.fixed_dictionaries(SERIES | {"over_s": DAY, "per_s": DAY}), LIMIT
    ),
    "silence": st.fixed_dictionaries(
        {"of": st.sampled_from(["device", "gateway"]), "match": NAMES, "after_s": DAY, "forget_s": st.just(90_000)}
    ),
    "anomaly": st.fixed_dictionaries(
        SERIES | {"weeks": st.integers(3, 52), "weeks_min": st.just(2), "factor": st.floats(0.1, 100)}
    ),
    "dead_letters": st.fixed_dictionaries({"gateway": NAMES, "above": st.integers(0, 10**6), "over_s": DAY}),
}
RULES = st.sampled_from(sorted(KINDS)).flatmap(
    lambda kind: st.builds(lambda own, common: {"kind": kind, **own, **common}, OWN[kind], COMMON_KEYS)
)


@given(RULES)
def test_a_rule_that_is_edited_and_not_changed_is_the_same(keys: dict[str, Any]) -> None:
    rule = of_json(json.dumps(keys))
    assert written(rule.kind, filled(rule)) == rule
    assert described(rule)


@given(RULES, st.floats(-100, 100))
def test_where_it_is_over_again_is_kept(keys: dict[str, Any], clear: float) -> None:
    if keys["kind"] in {"threshold", "rate"}:
        keys |= {"clear": clear} | ({"above": 1e6} if "above" in keys else {"below": -1e6})
        rule = of_json(json.dumps(keys))
        assert written(rule.kind, filled(rule)) == rule


def test_the_form_has_every_key_of_every_kind() -> None:
    for model in get_args(AnyRule):
        kind = get_args(model.model_fields["kind"].annotation)[0]
        keys = {field.key for field in (*FIELDS[kind], *COMMON)} | {"kind"}
        if "limit" in keys:
            keys = (keys - {"limit", "side"}) | {"above", "below"}
        assert keys == set(model.model_fields), kind


@pytest.mark.parametrize(
    ("kind", "given_", "said"),
    [
        ("threshold", {"metric": "heat", "limit": "hot"}, "Limit: 'hot' is no number."),
        ("threshold", {"metric": "heat"}, "Limit: a number is needed."),
        ("threshold", {"limit": "90"}, "Metric: is missing."),
        ("threshold", {"metric": "heat", "limit": "90", "clear": "95"}, "Over again at: must be <= above, got 95."),
        (
            "rate",
            {"metric": "heat", "limit": "1", "per_s": "soon"},
            "Per: 'soon' is no duration; write it as 90 s, 5 min",
        ),
        ("silence", {"after_s": "0"}, "Silent for: must be >= 1, got 0"),
        ("silence", {"after_s": "40 d", "forget_s": "30 d"}, "Forgotten after: must be > “Silent for”, got 2592000."),
        ("dead_letters", {"above": "-1"}, "More than: must be >= 0, got -1"),
    ],
)
def test_what_is_wrong_is_said_of_its_field(kind: str, given_: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError) as raised:
        written(kind, {field.key: field.start for field in FIELDS[kind]} | given_)
    assert said in str(raised.value)


def test_a_rule_of_each_kind_needs_no_more_than_what_has_no_beginning() -> None:
    for kind, fields in FIELDS.items():
        values = {field.key: field.start for field in (*fields, *COMMON)}
        values |= {key: value for key, value in {"metric": "heat", "limit": "90"}.items() if key in values}
        rule = written(kind, values)
        assert rule.name == suggested(rule.model_dump(exclude_none=True))
        assert rule.notify == ("log",)


@pytest.mark.parametrize(
    ("text", "is_"), [("90", 90), (" 90 s", 90), ("5min", 300), ("2 h 30 min", 9000), ("1 d", 86_400), ("0 s", 0)]
)
def test_durations(text: str, is_: int) -> None:
    assert seconds(text) == is_


@pytest.mark.parametrize("text", ["", "soon", "-5", "5 weeks", "1.5 h", "٣", "5 min and"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="no duration"):
        seconds(text)

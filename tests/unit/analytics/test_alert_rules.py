import re
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from analytics.alerts.conditions import Found, Subject
from analytics.alerts.rules import AlertsConfig, Threshold, as_regex, load, of_json
from analytics.alerts.state import changes, duration
from telemetry.errors import ConfigError

NOW = datetime(2026, 11, 25, 8, tzinfo=UTC)
RULE = Threshold(kind="threshold", name="hot", metric="temperature", above=90, clear=85, for_s=300)


def found(value: float, device: str = "t1", *, lasted: bool = True) -> Found:
    """As the query has it for RULE."""
    fires = value > 90 and lasted
    return Found(Subject(device, "temperature"), value, "degC", 90, NOW, NOW, fires, value <= 85 and not fires)


def look(firing: set[Subject], *each: Found) -> list[tuple[str, str]]:
    return [(change.kind, change.subject.device) for change in changes(RULE, firing, each, absent_ends=False)]


def test_an_alert_begins_once_and_ends_below_its_clear_value() -> None:
    hot = {Subject("t1", "temperature")}
    assert look(set(), found(91)) == [("firing", "t1")]
    assert look(hot, found(91)) == []
    assert look(hot, found(87)) == []  # between clear and above nothing changes
    assert look(set(), found(87)) == []
    assert look(hot, found(85)) == [("resolved", "t1")]
    assert look(set(), found(85)) == []


def test_a_value_that_has_not_lasted_does_not_begin_an_alert_nor_end_one() -> None:
    assert look(set(), found(91, lasted=False)) == []
    assert look({Subject("t1", "temperature")}, found(91, lasted=False)) == []


def test_a_subject_that_is_not_seen_keeps_its_state_unless_absence_is_an_end() -> None:
    hot = {Subject("t1", "temperature"), Subject("t2", "temperature")}
    assert look(hot, found(91)) == []
    ended = changes(RULE, hot, [found(91)], absent_ends=True)
    assert [(change.kind, change.subject.device) for change in ended] == [("resolved", "t2")]


def test_the_sentence_says_who_what_and_since_when() -> None:
    [change] = changes(RULE, set(), [found(93.25)], absent_ends=False)
    assert change.text == ("temperature t1 is 93.25 degC, above 90 for 5 min; since 2026-11-25 08:00:00 UTC.")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (45, "45 s"), (300, "5 min"), (9000, "2 h 30 min"), (90_061, "1 d 1 h"), (59.7, "1 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@given(st.text(), st.text())
def test_a_pattern_without_wildcards_means_that_name_and_no_other(pattern: str, name: str) -> None:
    if not {"*", "?"} & set(pattern):
        assert bool(re.match(as_regex(pattern), name)) == (pattern == name or name == pattern + "\n")


def test_wildcards() -> None:
    assert re.match(as_regex("pump-*.?"), "pump-north.7")
    assert not re.match(as_regex("pump-*.?"), "pump-north.77")


RULES = """
[channels.ops]
kind = "webhook"
url = "http://127.0.0.1:9/x"
token_file = "token"

[[rules]]
name = "hot"
kind = "threshold"
metric = "temperature"
above = 90
notify = ["ops"]
"""


def test_paths_are_relative_to_the_file(tmp_path) -> None:
    (tmp_path / "alerts.toml").write_text(RULES)
    channel = load(tmp_path / "alerts.toml").channels["ops"]
    assert channel.token_file == tmp_path / "token"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("above = 90", "above = 90\nbelow = 3"), "rules.0.threshold: give either above or below"),
        (("above = 90", ""), "rules.0.threshold: give either above or below"),
        (("above = 90", "above = 90\nclear = 95"), "clear must be <= above, got 95"),
        (("above = 90", "above = nan"), "rules.0.threshold.above must be a finite number, got nan"),
        (('notify = ["ops"]', 'notify = ["ob"]'), "the rule 'hot' notifies 'ob'; there is no [channels.ob]"),
        (('kind = "threshold"', 'kind = "treshold"'), "rules.0"),
        (("above = 90", "above = 90\nfor = 5"), "rules.0.threshold.for is not a known key"),
        (('url = "http://127.0.0.1:9/x"', 'url = "gopher://x"'), "channels.ops.webhook.url must"),
    ],
)
def test_a_wrong_file_is_told_with_its_key(tmp_path, change, sentence) -> None:
    (tmp_path / "alerts.toml").write_text(RULES.replace(*change))
    with pytest.raises(ConfigError) as told:
        load(tmp_path / "alerts.toml")
    assert sentence in str(told.value)
    assert str(tmp_path / "alerts.toml") in str(told.value)


def test_two_rules_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two rules are named 'hot'"):
        AlertsConfig(rules=(RULE, RULE))


def test_a_rule_survives_the_table() -> None:
    assert of_json(RULE.model_dump_json(exclude_defaults=True)) == RULE
    for broken in ("", "{}", '{"kind": "threshold"}', "[1]"):
        with pytest.raises(ConfigError):
            of_json(broken)

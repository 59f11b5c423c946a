"""A rule of alerts as a form for people, and as a sentence. Pure.

Each kind has its fields; what is in them is text, as somebody types it: `90`, `5 min`, `pump-*`. `written` makes a rule
of it, or raises a sentence that names the field; `filled` goes the other way, to edit a rule. What a rule may have is
analytics/alerts/rules.py's; a key that is missing here cannot be edited here, and a test says so.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from analytics.alerts.rules import Anomaly, AnyRule, Rate, Silence, Threshold, of_json
from analytics.alerts.state import duration
from telemetry.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Field:
    """One field. takes: text, number, duration, or choices separated by |; names: the list that completes it."""

    key: str
    label: str
    takes: str = "text"
    start: str = ""
    hint: str = ""
    names: str = ""


_DEVICE = Field("device", "Device", start="*", hint="* is any, pump-* those that begin so", names="devices")
_METRIC = Field("metric", "Metric", names="metrics", hint="as devices call it")
_SIDE = Field("side", "Is", "above|below", "above")
_CLEAR = Field("clear", "Over again at", "number", hint="empty: at the limit itself")
FIELDS: Mapping[str, tuple[Field, ...]] = {
    "threshold": (
        _DEVICE,
        _METRIC,
        _SIDE,
        Field("limit", "Limit", "number"),
        Field("for_s", "For at least", "duration", "5 min", "0 s: at once"),
        _CLEAR,
    ),
    "rate": (
        _DEVICE,
        _METRIC,
        _SIDE,
        Field("limit", "Change", "number", hint="below -0.5: it falls by more than 0.5"),
        Field("per_s", "Per", "duration", "1 h"),
        Field("over_s", "Seen over", "duration", "10 min"),
        _CLEAR,
    ),
    "silence": (
        Field("of", "Of a", "device|gateway", "device"),
        Field("match", "Which", start="*", hint="* is any, pump-* those that begin so"),
        Field("after_s", "Silent for", "duration", "15 min"),
        Field("forget_s", "Forgotten after", "duration", "30 d", "then it is taken as gone"),
    ),
    "anomaly": (
        _DEVICE,
        _METRIC,
        Field("factor", "Times the usual spread", "number", "5", "how far the mean of an hour is from what is usual"),
        Field("difference_min", "And at least by", "number", "0", "in the metric's unit"),
        Field("weeks", "Weeks to compare with", "number", "8"),
        Field("weeks_min", "Of which there must be", "number", "3"),
    ),
    "dead_letters": (
        Field("gateway", "Gateway", start="*", hint="* is any"),
        Field("above", "More than", "number", "0", "dead letters"),
        Field("over_s", "Within", "duration", "1 h"),
    ),
}
COMMON = (
    Field("name", "Name", hint="empty: one is made up"),
    Field("severity", "Severity", "info|warning|critical", "warning"),
    Field("notify", "Tell", start="log", hint="channels of alerts.toml, with commas"),
    Field("repeat_s", "Tell again every", "duration", "0 s", "0 s: once"),
    Field("note", "Note", hint="what to do, for who is told"),
)
KINDS = {
    "threshold": "A value is above or below a limit",
    "rate": "A value rises or falls too fast",
    "silence": "A device or gateway is silent",
    "anomaly": "A value is unlike the same hour of former weeks",
    "dead_letters": "Messages cannot be understood (dead letters)",
}
_UNITS = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400}
_DURATION = re.compile(r"(?:\d+ ?(?:s|min|m|h|d) ?)+")


def seconds(text: str) -> int:
    """`90`, `90 s`, `5 min`, `2 h 30 min`, `1 d`. Raises ValueError."""
    text = text.strip()
    if text.isascii() and text.isdigit():
        return int(text)
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration; write it as 90 s, 5 min, 2 h or 1 d")
    return sum(int(count) * _UNITS[unit] for count, unit in re.findall(r"(\d+) ?(s|min|m|h|d)", text))


def written(kind: str, given: Mapping[str, str]) -> AnyRule:
    """The rule. Raises ConfigError, one sentence."""
    rule: dict[str, Any] = {"kind": kind}
    fields = {field.key: field for field in (*FIELDS[kind], *COMMON)}
    for key, field in fields.items():
        text = (given.get(key) or "").strip()
        if text or key == "limit":
            rule[key] = _value(field, text)
    if "side" in fields:
        rule[rule.pop("side")] = rule.pop("limit")
    rule["notify"] = [name for name in re.split(r"[,\s]+", rule.get("notify", "log")) if name]
    rule.setdefault("name", suggested(rule))
    try:
        return of_json(json.dumps(rule))
    except ConfigError as error:
        raise ConfigError("; ".join(_by_label(line, kind, fields) for line in str(error).splitlines())) from error


def _value(field: Field, text: str) -> str | float | int:
    try:
        if field.takes == "duration":
            return seconds(text)
        if field.takes == "number":
            number = float(text)
            return int(number) if number.is_integer() else number
    except (ValueError, OverflowError) as error:
        said = str(error) if field.takes == "duration" else f"{text!r} is no number" if text else "a number is needed"
        raise ConfigError(f"{field.label}: {said}.") from error
    return text


def _by_label(line: str, kind: str, fields: Mapping[str, Field]) -> str:
    """What pydantic says of a key, of its field."""
    line = line.removeprefix(f"{kind}.").removeprefix(f"{kind}: ")
    key, _, rest = line.partition(" ")
    for other, field in fields.items():
        rest = re.sub(rf"\b{other}\b(?=,)", f"“{field.label}”", rest)
    return f"{fields[key].label}: {rest}." if key in fields else line


def filled(rule: AnyRule) -> dict[str, str]:
    """What the form has for this rule."""
    values = rule.model_dump()
    if isinstance(rule, Threshold | Rate):
        values |= {"side": "below" if rule.above is None else "above", "limit": rule.limit}
    shown = {}
    for field in (*FIELDS[rule.kind], *COMMON):
        value = values[field.key]
        if field.key == "notify":
            shown[field.key] = ", ".join(value)
        elif value is None:
            shown[field.key] = ""
        elif field.takes == "duration":
            shown[field.key] = duration(value) if seconds(duration(value)) == value else str(value)
        else:
            shown[field.key] = f"{value:g}" if isinstance(value, float) and f"{value:g}" == str(value) else str(value)
    return shown


def suggested(rule: Mapping[str, Any]) -> str:
    """A name for a rule that has none."""
    kind, metric = rule["kind"], rule.get("metric", "")
    if kind == "threshold":
        side = "above" if "above" in rule else "below"
        return f"{metric} {side} {rule[side]:g}"
    return {
        "rate": f"{metric} changes fast",
        "silence": f"{rule.get('of', 'device')} silent",
        "anomaly": f"{metric} unusual",
        "dead_letters": "dead letters",
    }[kind]


def described(rule: AnyRule) -> str:
    """When it fires, for people."""
    if isinstance(rule, Threshold):
        lasting = f" for at least {duration(rule.for_s)}" if rule.for_s else ""
        over = f"; over again at {rule.end:g}" if rule.clear is not None else ""
        return f"{rule.metric} of {_who('device', rule.device)} is {_beyond(rule)}{lasting}{over}"
    if isinstance(rule, Rate):
        who = _who("device", rule.device)
        change = f"changes by {_beyond(rule)} per {duration(rule.per_s)}"
        return f"{rule.metric} of {who} {change}, seen over {duration(rule.over_s)}"
    if isinstance(rule, Silence):
        return f"{_who(rule.of, rule.match)} has sent nothing for {duration(rule.after_s)}"
    if isinstance(rule, Anomaly):
        far = f"more than {rule.factor:g} times the usual spread"
        least = f" and {rule.difference_min:g}" if rule.difference_min else ""
        who = _who("device", rule.device)
        return f"{rule.metric} of {who} is {far}{least} away from the same hour of the last {rule.weeks} weeks"
    return (
        f"more than {rule.above:,} dead letters of {_who('gateway', rule.gateway)} come within {duration(rule.over_s)}"
    )


def _beyond(rule: Threshold | Rate) -> str:
    return f"{'below' if rule.above is None else 'above'} {rule.limit:g}"


def _who(noun: str, pattern: str) -> str:
    if pattern == "*":
        return f"any {noun}"
    return f"a {noun} like {pattern}" if re.search(r"[*?]", pattern) else f"{noun} {pattern}"

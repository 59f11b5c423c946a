"""From what a rule finds to what has changed, and the sentence that says so. Pure."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from analytics.alerts.conditions import Found, Subject
from analytics.alerts.rules import Anomaly, AnyRule, DeadLetters, Rate, Silence, Threshold

Kind = Literal["firing", "resolved"]


@dataclass(frozen=True, slots=True)
class Change:
    """One subject of one rule that began or ceased to be alarming."""

    kind: Kind
    subject: Subject
    value: float
    text: str


def changes(rule: AnyRule, firing: Collection[Subject], found: Sequence[Found], *, absent_ends: bool) -> list[Change]:
    """What is new. firing: the subjects for which the rule is known to fire."""
    new = []
    for each in found:
        if each.fires and each.subject not in firing:
            new.append(Change("firing", each.subject, each.value, sentence(rule, each)))
        elif each.ends and each.subject in firing:
            new.append(Change("resolved", each.subject, each.value, over(rule, each)))
    if absent_ends:
        there = {each.subject for each in found}
        new += [
            Change("resolved", subject, 0.0, f"{_capital(subject)}: none any more.")
            for subject in sorted(set(firing) - there)
        ]
    return new


def sentence(rule: AnyRule, found: Found) -> str:
    """What is wrong, for people."""
    who, value = found.subject, quantity(found.value, found.unit)
    if isinstance(rule, Threshold):
        lasting = f" for {duration(rule.for_s)}" if rule.for_s else ""
        return f"{who} is {value}, {_beyond(rule)}{lasting}; since {_time(found.since)}."
    if isinstance(rule, Rate):
        return (
            f"{who} changes by {value} per {duration(rule.per_s)}, {_beyond(rule)}, seen over {duration(rule.over_s)}."
        )
    if isinstance(rule, Silence):
        name = who.gateway or who.device
        return f"The {rule.of} {name} has sent nothing for {duration(found.value)}; the last is of {_time(found.at)}."
    if isinstance(rule, Anomaly):
        expected = quantity(found.reference, found.unit)
        return f"{who} was {value} on average in the hour from {_time(found.at)}; in former weeks about {expected}."
    letters = "dead letter" if found.value == 1 else "dead letters"
    return f"{found.value:,.0f} {letters} of {who} within {duration(rule.over_s)}, more than {rule.above}."


def over(rule: AnyRule, found: Found) -> str:
    """That it is over, for people."""
    who, value = found.subject, quantity(found.value, found.unit)
    if isinstance(rule, Threshold):
        return f"{who} is {value}; it is no longer {_beyond(rule)}."
    if isinstance(rule, Rate):
        return f"{who} changes by {value} per {duration(rule.per_s)}; it is no longer {_beyond(rule)}."
    if isinstance(rule, Silence):
        name = who.gateway or who.device
        if found.value >= rule.forget_s:
            return f"The {rule.of} {name} has been silent for {duration(rule.forget_s)}, and is forgotten."
        return f"The {rule.of} {name} sends again, since {_time(found.at)}."
    if isinstance(rule, Anomaly):
        return f"{who} was {value} on average in the hour from {_time(found.at)}, as in former weeks."
    assert isinstance(rule, DeadLetters)
    return f"{found.value:,.0f} dead letters of {who} within {duration(rule.over_s)}, not more than {rule.above}."


def quantity(value: float, unit: str) -> str:
    """A number with its unit."""
    return f"{value:.6g} {unit}".rstrip()


def duration(seconds: float) -> str:
    """Whole units, the two largest: 45 s, 5 min, 2 h 30 min, 3 d."""
    left, parts = round(seconds), []
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s")):
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def _beyond(rule: Threshold | Rate) -> str:
    return f"{'below' if rule.above is None else 'above'} {rule.limit:g}"


def _capital(subject: Subject) -> str:
    return str(subject)[:1].upper() + str(subject)[1:]


def _time(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"

"""What ClickHouse keeps of alerts: the events, whom they were told to, and rules that were not written into a file."""

import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from analytics.alerts.conditions import Subject
from analytics.alerts.rules import AnyRule, of_json
from analytics.alerts.state import Change
from ingest.clickhouse.client import Client, known
from telemetry.errors import ConfigError

PENDING_S_MAX = 86_400
"""For so long a channel is tried; then an event is given up for it."""
TOLD_MAX = 1000
"""Events that are told in one go."""
_SETTINGS = {"async_insert": 0, "wait_end_of_query": 1}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Alert:
    """A row of the view `alerts`."""

    rule: str
    subject: Subject
    state: str
    severity: str
    since: datetime
    value: float
    text: str
    event: int
    notify: tuple[str, ...]
    acknowledged_by: str
    muted_until: datetime


@dataclass(frozen=True, slots=True)
class Event:
    """What a channel is to be told. again: it was told before, and the alert still fires."""

    id: int
    at: datetime
    rule: str
    subject: Subject
    kind: str
    severity: str
    value: float
    text: str
    again: bool = False


class Store:
    """Belongs to one thread, as its client does. All methods raise ClickHouse's errors."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def alerts(self, *, firing: bool = True) -> list[Alert]:
        """What fires, or all that ever did; the newest first."""
        rows = self._client.query(
            "SELECT rule, (device, metric, gateway), state, severity, since, value, text, event, notify,"
            " acknowledged_by, muted_until FROM fieldline.alerts"
            f" {'WHERE state = {state:String}' if firing else ''} ORDER BY event DESC",
            parameters={"state": "firing"},
        ).result_rows
        return [_alert(row) for row in rows]

    def add(self, rule: str, severity: str, notify: Sequence[str], changes: Sequence[Change], now_ms: int) -> None:
        """What a rule has found. What is muted at the time is told to nobody."""
        muted = self._muted(rule, now_ms)
        rows = [
            _event(
                now_ms,
                rule,
                change.subject,
                change.kind,
                severity=severity,
                value=change.value,
                text=change.text,
                notify=[] if {change.subject, Subject()} & muted else list(notify),
            )
            for change in changes
        ]
        self._insert("alert_events", rows)

    def say(self, kind: str, rule: str, subject: Subject, by: str, now_ms: int, until_ms: int = 0) -> None:
        """A person has acknowledged or muted; an empty subject stands for all of the rule."""
        text = f"{kind} by {by}"
        row = _event(now_ms, rule, subject, kind, text=text, said_by=by, until=_moment(until_ms))
        self._insert("alert_events", [row])

    def pending(self, channel: str, now_ms: int) -> list[Event]:
        """What the channel has not been told yet, the oldest first."""
        rows = self._client.query(
            f"""
            SELECT id, at, rule, (device, metric, gateway), kind, severity, value, text
            FROM fieldline.alert_events
            WHERE at > {{after:DateTime64(3, 'UTC')}} AND has(notify, {{channel:String}})
                AND id NOT IN (SELECT event FROM fieldline.alert_notifications WHERE channel = {{channel:String}})
            ORDER BY id LIMIT {TOLD_MAX}
            """,
            parameters={"channel": channel, "after": _text(now_ms - 2 * PENDING_S_MAX * 1000)},
        ).result_rows
        return [Event(row[0], _utc(row[1]), row[2], Subject(*row[3]), *row[4:]) for row in rows]

    def told(self, channel: str, events: Iterable[Event], now_ms: int, given_up: str = "") -> None:
        """The channel took the events; or it will not be tried any more, and why."""
        outcome = "given_up" if given_up else "sent"
        self._insert(
            "alert_notifications",
            [
                {"event": event.id, "channel": channel, "at": _moment(now_ms), "outcome": outcome, "detail": given_up}
                for event in events
            ],
        )

    def last_told(self, ids: Sequence[int]) -> dict[tuple[int, str], datetime]:
        """When each channel was last told of these events."""
        if not ids:
            return {}
        rows = self._client.query(
            "SELECT event, channel, max(at) FROM fieldline.alert_notifications"
            " WHERE event IN {ids:Array(UInt64)} AND outcome = 'sent' GROUP BY event, channel",
            parameters={"ids": list(ids)},
        ).result_rows
        return {(row[0], row[1]): _utc(row[2]) for row in rows}

    def rules(self) -> tuple[dict[str, AnyRule], list[str]]:
        """Those in the table, and a sentence for each that cannot be read."""
        rows = self._client.query("SELECT name, rule FROM fieldline.alert_rules FINAL WHERE rule != '' ORDER BY name")
        found, troubles = {}, []
        for name, text in rows.result_rows:
            try:
                found[name] = of_json(text)
            except ConfigError as error:
                troubles.append(f"The rule {name!r} in the table alert_rules cannot be used: {error}")
        return found, troubles

    def set_rule(self, name: str, rule: AnyRule | None, by: str, now_ms: int) -> None:
        """Add, change, or with None remove."""
        text = "" if rule is None else rule.model_dump_json(exclude_defaults=True)
        self._insert("alert_rules", [{"name": name, "rule": text, "changed_at": _moment(now_ms), "changed_by": by}])

    def _muted(self, rule: str, now_ms: int) -> set[Subject]:
        rows = self._client.query(
            "SELECT device, metric, gateway, argMax(until, id) AS muted_until FROM fieldline.alert_events"
            " WHERE rule = {rule:String} AND kind = 'muted' GROUP BY device, metric, gateway"
            " HAVING muted_until > {now:DateTime64(3, 'UTC')}",
            parameters={"rule": rule, "now": _text(now_ms)},
        ).result_rows
        return {Subject(*row[:3]) for row in rows}

    def _insert(self, table: str, rows: Sequence[dict[str, Any]]) -> None:
        if rows:
            names = list(rows[0])
            data = [[row[name] for name in names] for row in rows]
            self._client.insert(f"fieldline.{table}", data, names, settings=known(self._client, _SETTINGS))


def _alert(row: Sequence[Any]) -> Alert:
    rule, subject, state, severity, since, value, text, event, notify, acknowledged_by, muted_until = row
    return Alert(
        rule, Subject(*subject), state, severity, _utc(since), value, text, event, tuple(notify), acknowledged_by,
        _utc(muted_until),
    )  # fmt: skip


def _event(now_ms: int, rule: str, subject: Subject, kind: str, **more: Any) -> dict[str, Any]:
    blank = {"severity": "", "value": 0.0, "text": "", "notify": [], "until": EPOCH, "said_by": ""}
    named = {"id": (now_ms << 20) + secrets.randbelow(1 << 20), "at": _moment(now_ms), "rule": rule, "kind": kind}
    return named | subject._asdict() | blank | more


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)


def _text(at_ms: int) -> str:
    return f"{_moment(at_ms):%Y-%m-%d %H:%M:%S}"


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)

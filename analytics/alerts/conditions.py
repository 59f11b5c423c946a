"""Each kind of rule as one query over the tables.

A query gives a row per subject that it can say something about, with the columns of `Found`. What is measured counts by
the devices' times, and only if it is of the last hours: an alert says how things are now. Readings that a device calls
bad (quality 2) do not count.

Cost: a rule reads the metric of its devices over `over_s`, or over `for_s` and `RECENT_S` more.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from analytics.alerts.rules import Anomaly, AnyRule, DeadLetters, Rate, Silence, Threshold, as_regex
from ingest.clickhouse.client import Client

RECENT_S = 7200
AHEAD_S = 3600
"""Times further in the future than this are a wrong clock."""


class Subject(NamedTuple):
    """What an alert is about; what does not apply is empty."""

    device: str = ""
    metric: str = ""
    gateway: str = ""

    def __str__(self) -> str:
        return (
            f"gateway {self.gateway}" if self.gateway else " ".join(part for part in (self.metric, self.device) if part)
        )


@dataclass(frozen=True, slots=True)
class Found:
    """One subject as a rule sees it now.

    value, reference: in `unit`; reference is the limit, or what was to be expected. at: the time of the newest that
    counts; since: when it began. fires: the rule is met; ends: an alert is over; with hysteresis it may be neither.
    """

    subject: Subject
    value: float
    unit: str
    reference: float
    at: datetime
    since: datetime
    fires: bool
    ends: bool


@dataclass(frozen=True, slots=True)
class Condition:
    """A query with its parameters. absent_ends: a subject without a row has nothing any more that could be wrong."""

    sql: str
    parameters: Mapping[str, Any]
    absent_ends: bool = False

    def ask(self, client: Client) -> list[Found]:
        """Raises ClickHouse's errors."""
        rows = client.query(self.sql, parameters=dict(self.parameters)).result_rows
        return [
            Found(Subject(*row[:3]), row[3], row[4], row[5], _utc(row[6]), _utc(row[7]), bool(row[8]), bool(row[9]))
            for row in rows
        ]


def condition(rule: AnyRule, now_ms: int) -> Condition:
    """The question that a rule asks at a time (milliseconds since 1970, UTC)."""
    now = datetime.fromtimestamp(now_ms / 1000, UTC)
    if isinstance(rule, Threshold):
        return _threshold(rule, now)
    if isinstance(rule, Rate):
        return _rate(rule, now)
    if isinstance(rule, Silence):
        return _silence(rule, now)
    if isinstance(rule, Anomaly):
        return _anomaly(rule, now)
    return _dead_letters(rule, now)


_MEASURED = """
    FROM fieldline.readings
    WHERE measured_at > {begin:DateTime64(3, 'UTC')} AND measured_at <= {end:DateTime64(3, 'UTC')}
        AND match(device, {device:String}) AND match(metric, {metric:String})
        AND NOT isNaN(value) AND bitAnd(quality, 2) = 0
    GROUP BY device, metric
"""


def _measured(rule: Threshold | Rate, now: datetime, back_s: int) -> dict[str, Any]:
    return {
        "begin": _text(now - timedelta(seconds=back_s)),
        "end": _text(now + timedelta(seconds=AHEAD_S)),
        "device": as_regex(rule.device),
        "metric": as_regex(rule.metric),
        "limit": rule.limit,
        "clear": rule.end,
    }


def _threshold(rule: Threshold, now: datetime) -> Condition:
    beyond, back = (">", "<=") if rule.above is not None else ("<", ">=")
    sql = f"""
SELECT
    device, metric, '' AS gateway, newest.1 AS last, newest.2 AS unit, {{limit:Float64}} AS reference, at,
    if(empty(beyond), at, arrayMin(beyond)) AS since,
    last {beyond} {{limit:Float64}} AND dateDiff('second', since, at) >= {{for_s:UInt32}} AS fires,
    last {back} {{clear:Float64}} AND NOT fires AS ends
FROM
(
    SELECT
        device, metric,
        argMax((value, unit), (measured_at, seq)) AS newest,
        max(measured_at) AS at,
        maxIf(measured_at, NOT (value {beyond} {{limit:Float64}})) AS within,
        arrayFilter(time -> time > within, groupArrayIf(measured_at, value {beyond} {{limit:Float64}})) AS beyond
    {_MEASURED}
)
"""
    return Condition(sql, _measured(rule, now, rule.for_s + RECENT_S) | {"for_s": rule.for_s})


def _rate(rule: Rate, now: datetime) -> Condition:
    """Seen over half of `over_s` at least: two readings of the same second say little of an hour."""
    beyond, back = (">", "<=") if rule.above is not None else ("<", ">=")
    sql = f"""
SELECT
    device, metric, '' AS gateway,
    (last.1 - first) * {{per_s:UInt32}} / (seen_ms / 1000) AS change,
    last.2 AS unit, {{limit:Float64}} AS reference, at, since,
    change {beyond} {{limit:Float64}} AS fires,
    change {back} {{clear:Float64}} AND NOT fires AS ends
FROM
(
    SELECT
        device, metric,
        argMin(value, (measured_at, seq)) AS first,
        argMax((value, unit), (measured_at, seq)) AS last,
        min(measured_at) AS since,
        max(measured_at) AS at,
        dateDiff('millisecond', since, at) AS seen_ms
    {_MEASURED}
)
WHERE seen_ms >= {{over_s:UInt32}} * 500
"""
    return Condition(sql, _measured(rule, now, rule.over_s) | {"over_s": rule.over_s, "per_s": rule.per_s})


def _silence(rule: Silence, now: datetime) -> Condition:
    seen = {
        "device": "SELECT device, '' AS gateway, max(measured_at) AS at FROM fieldline.latest"
        " WHERE match(device, {match:String}) GROUP BY device",
        "gateway": "SELECT '' AS device, gateway, reported_at AS at FROM fieldline.gateways FINAL"
        " WHERE match(gateway, {match:String})",
    }
    sql = f"""
SELECT
    device, '' AS metric, gateway,
    dateDiff('millisecond', at, {{now:DateTime64(3, 'UTC')}}) / 1000 AS silent_s,
    's' AS unit, toFloat64({{after_s:UInt32}}) AS reference, at, at AS since,
    silent_s >= {{after_s:UInt32}} AND silent_s < {{forget_s:UInt32}} AS fires,
    NOT fires AS ends
FROM ({seen[rule.of]})
"""
    parameters = {
        "match": as_regex(rule.match),
        "now": _text(now),
        "after_s": rule.after_s,
        "forget_s": rule.forget_s,
    }
    return Condition(sql, parameters)


def _anomaly(rule: Anomaly, now: datetime) -> Condition:
    """The spread is the median absolute deviation times 1.4826, which is the standard deviation of normal values."""
    hour = now.replace(minute=0, second=0, microsecond=0) - timedelta(hours=1)
    sql = """
SELECT
    device, metric, '' AS gateway, present AS value, '' AS unit, expected AS reference,
    {hour:DateTime64(3, 'UTC')} AS at, at AS since,
    abs(present - expected) > greatest({factor:Float64} * spread, {difference_min:Float64}) AS fires,
    NOT fires AS ends
FROM
(
    SELECT
        device, metric,
        anyIf(mean, bucket = {hour:DateTime64(3, 'UTC')}) AS present,
        groupArrayIf(mean, bucket != {hour:DateTime64(3, 'UTC')}) AS past,
        arrayReduce('median', past) AS expected,
        1.4826 * arrayReduce('median', arrayMap(mean_then -> abs(mean_then - expected), past)) AS spread
    FROM
    (
        SELECT device, metric, bucket, sum / count AS mean
        FROM fieldline.rollup_1h
        WHERE bucket IN {hours:Array(DateTime64(3, 'UTC'))}
            AND match(device, {device:String}) AND match(metric, {metric:String})
    )
    GROUP BY device, metric
    HAVING countIf(bucket = {hour:DateTime64(3, 'UTC')}) = 1 AND length(past) >= {weeks_min:UInt32}
)
"""
    hours = [hour - timedelta(weeks=week) for week in range(rule.weeks + 1)]
    parameters = {
        "hour": _text(hour),
        "hours": [_text(then) for then in hours],
        "device": as_regex(rule.device),
        "metric": as_regex(rule.metric),
        "factor": rule.factor,
        "difference_min": rule.difference_min,
        "weeks_min": rule.weeks_min,
    }
    return Condition(sql, parameters)


def _dead_letters(rule: DeadLetters, now: datetime) -> Condition:
    sql = """
SELECT
    '' AS device, '' AS metric, toString(gateway) AS gateway,
    toFloat64(count()) AS letters, '' AS unit, toFloat64({above:UInt32}) AS reference,
    max(ingested_at) AS at, min(ingested_at) AS since,
    letters > {above:UInt32} AS fires,
    NOT fires AS ends
FROM fieldline.dead_letters
WHERE ingested_at > {begin:DateTime64(3, 'UTC')} AND match(gateway, {gateway:String})
GROUP BY gateway
"""
    parameters = {
        "begin": _text(now - timedelta(seconds=rule.over_s)),
        "gateway": as_regex(rule.gateway),
        "above": rule.above,
    }
    return Condition(sql, parameters, absent_ends=True)


def _text(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3]


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC)

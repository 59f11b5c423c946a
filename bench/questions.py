"""What is asked of ClickHouse when somebody opens the dashboard, or Grafana, or asks a named query.

Pages are those of analytics/web; of Grafana's dashboards the panels and variables. Named queries of which neither knows
come last, without a page. tests/integration/test_bench_dashboard.py finds a query that is missing.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

from starlette.datastructures import QueryParams

from analytics import grafana
from analytics.alerts.conditions import Condition, condition
from analytics.alerts.rules import of_json
from analytics.queries import ask, load
from analytics.web.pages import custody, explorer
from analytics.web.view import SPANS, View
from ingest.clickhouse.client import Client

DEVICE, OTHERS = "turbine-0500", [f"turbine-{number:04d}" for number in range(100, 110)]


@dataclass(frozen=True, slots=True)
class Question:
    """A query as a page asks it. ask: gives the number of rows."""

    page: str
    what: str
    query: str
    ask: Callable[[Client], int]


def questions(end: datetime, metrics: list[str]) -> list[Question]:
    """What the pages ask when the newest readings are of just before `end`; ten metrics."""
    return [*_pages(end, metrics), *_rules(end), *_grafana(end), *_others(end, metrics)]


def _named(page: str, what: str, query: str, given: dict[str, Any] | None = None) -> Question:
    return Question(page, what, query, lambda client: int(ask(client, query, **(given or {})).row_count))


def _before(end: datetime, hours: float) -> dict[str, Any]:
    return {"begin": end - timedelta(hours=hours), "end": end}


def _pages(end: datetime, metrics: list[str]) -> Iterator[Question]:
    """What analytics/web/pages ask."""
    yield _named("Fleet", "", "web_gateways")
    yield _named("Fleet", "1,000 devices", "web_devices")
    yield _named("Fleet", "found by a part of the name", "web_devices", {"search": "0500"})
    yield _named("Fleet", "", "web_places")
    yield _named("Explorer", "", "web_choices")
    one = {"devices": [DEVICE], "metrics": ["power"]}
    many = {"devices": OTHERS[:4], "metrics": metrics[: explorer.SERIES_MAX // 4]}
    for name, chosen in (("a series", one), (f"{explorer.SERIES_MAX} series", many)):
        yield _named("Explorer", name, "web_selected", chosen)
        for span, span_s in SPANS.items():
            yield _plotted(f"{name}, {span}", chosen, span_s, end)
    yield _named("Custody", "20 gateways", "accounting")
    yield _named("Custody", "", "web_dead_letters")
    yield _named("Custody", "", "web_letters", {"kind": "field … is no number"})
    yield _named("Custody", "", "losses", {"limit": custody.LOSSES_MAX})
    for query in ("web_alerts", "web_alert_rules", "web_alert_mutes", "web_alert_history"):
        yield _named("Alerts", "", query)
    yield _named("SQL", "", "web_words")


def _plotted(what: str, chosen: dict[str, Any], span_s: int, end: datetime) -> Question:
    """The points of a plot: a span, and as much on each side."""
    view = View(QueryParams({"span_ms": span_s * 1000, "end_ms": int(end.timestamp() * 1000)}))
    begin_ms, end_ms = view.extent
    given = chosen | {"begin_ms": begin_ms, "end_ms": end_ms}
    if view.source == "raw":
        return _named("Explorer", what, "web_series_raw", given | {"points": explorer.POINTS_ASKED})
    return _named("Explorer", what, "web_series_rollup", given | {"table": view.source, "step_ms": view.step_ms})


def _rules(end: datetime) -> Iterator[Question]:
    """Rules that are tried on the page, each over all devices."""
    now_ms = int(end.timestamp() * 1000)
    limit = {"name": "r", "metric": "power", "above": 1500}
    for rule in (
        {"kind": "threshold", "for_s": 600, **limit},
        {"kind": "rate", **limit},
        {"kind": "anomaly", "name": "r", "metric": "power"},
        {"kind": "silence", "name": "r", "after_s": 600},
        {"kind": "silence", "name": "r", "after_s": 600, "of": "gateway"},
        {"kind": "dead_letters", "name": "r"},
    ):
        asked = condition(of_json(json.dumps(rule)), now_ms)
        yield Question("Alerts", "1,000 devices", f"rule: {rule['kind']}", partial(_subjects, asked))


def _subjects(asked: Condition, client: Client) -> int:
    return len(asked.ask(client))


def _grafana(end: datetime) -> Iterator[Question]:
    """What Grafana's dashboards ask when they are opened: they begin with six hours."""
    panels = {panel.query for _, panels in grafana.DASHBOARDS.values() for panel in panels}
    given = {"device": DEVICE, "devices": [DEVICE], "metric": "power", "metrics": ["power"]} | _before(end, 6)
    for query in sorted(panels):
        wanted = {parameter.name for parameter in load(query).parameters}
        yield _named("Grafana", "6 hours", query, {name: value for name, value in given.items() if name in wanted})
    for name, sql in grafana.VARIABLES.items():
        yield Question("Grafana", "", f"variable: {name}", partial(_rows, sql))


def _rows(sql: str, client: Client) -> int:
    return int(client.query(sql).row_count)


def _others(end: datetime, metrics: list[str]) -> Iterator[Question]:
    """Named queries, over longer ranges."""
    hour, day, week = (_before(end, hours) for hours in (1, 24, 7 * 24))
    one = {"device": DEVICE, "metric": "power"}
    five = {"devices": [DEVICE], "metrics": metrics[:5]}
    ten = {"devices": OTHERS, "metrics": ["power"]}
    yield _named("", "1,000 devices", "devices")
    yield _named("", "", "metrics")
    yield _named("", "1,000 devices", "metric_latest", {"metric": "power"})
    for name, span in (("an hour", hour), ("a day", day), ("a week", week)):
        yield _named("", f"5 metrics, {name}", "series", five | span)
        yield _named("", f"10 devices, {name}", "series", ten | span)
    yield _named("", "a week by 10 min", "resample", one | week | {"step_s": 600, "fill": "linear"})
    yield _named("", "a week", "lttb", one | week)
    yield _named("", "a week by hour", "rate", {"device": DEVICE, "metric": "energy", "step_s": 3600} | week)
    yield _named("", "a week by hour", "time_weighted", one | week)
    yield _named("", "a week", "as_of", one | week | {"other": "wind_speed"})
    yield _named("", "a week by hour", "percentiles", one | week)
    yield _named("", "a week", "histogram", one | week)
    yield _named("", "an hour", "top_devices", {"metric": "power"} | hour)
    yield _named("", "a week", "top_devices", {"metric": "power"} | week)

"""`fieldline analytics grafana`: Grafana's files, made from the named queries.

For the official data source `grafana-clickhouse-datasource` in HTTP mode. A dashboard's time range, interval and
variables take the place of a query's parameters, as the plugin's macros and Grafana's `sqlstring` (quotes are doubled)
have them; parameters that a panel does not set have their defaults. What is here is the layout only.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from analytics.queries import load
from telemetry.errors import FieldlineError

SOURCE = {"type": "grafana-clickhouse-datasource", "uid": "fieldline"}
PLACES = {
    "begin": "$__fromTime_ms",
    "end": "$__toTime_ms",
    "step_s": "$__interval_s",
    "device": "${device:sqlstring}",
    "devices": "[${device:sqlstring}]",
    "metric": "${metric:sqlstring}",
    "metrics": "[${metric:sqlstring}]",
}
VARIABLES = {
    "device": "SELECT DISTINCT device FROM fieldline.latest ORDER BY device",
    "metric": "SELECT DISTINCT metric FROM fieldline.latest ORDER BY metric",
}


@dataclass(frozen=True, slots=True)
class Panel:
    """One query. shown: the columns of a line chart, with its time first; empty: a table of all columns."""

    title: str
    query: str
    shown: str = ""


DASHBOARDS: dict[str, tuple[str, tuple[Panel, ...]]] = {
    "fleet": (
        "Fieldline fleet",
        (
            Panel("Gateways", "gateways"),
            Panel("Records stored per second", "throughput", "at AS time, gateway, per_second"),
            Panel("From the gateway to the cloud, in seconds", "ingest_latency", "at AS time, p50_s, p95_s, p99_s"),
            Panel("Disk", "storage"),
        ),
    ),
    "device": (
        "Fieldline device",
        (
            Panel("Mean", "series", "at AS time, metric, mean"),
            Panel("Percentiles", "percentiles", "at AS time, p05, p50, p95"),
            Panel("Newest readings", "device_latest"),
            Panel("Raw readings", "readings"),
        ),
    ),
    "custody": (
        "Fieldline custody",
        (
            Panel("The books", "accounting"),
            Panel("Dead letters", "dead_letter_rate", "at AS time, gateway, letters"),
            Panel("Dead letters by reason", "dead_letter_reasons"),
            Panel("Losses", "losses"),
        ),
    ),
}


def sql(panel: Panel) -> str:
    """The panel's query with macros and variables in place of parameters."""
    query = load(panel.query)
    text = query.sql
    for parameter in query.parameters:
        default = parameter.default or ""
        if parameter.name in PLACES:
            place = PLACES[parameter.name]
        else:
            place = "'" + default.replace("'", "''") + "'" if parameter.type == "String" else default
        text = re.sub(rf"\{{{parameter.name}\s*:[^{{}}]*\}}", lambda _, place=place: place, text)  # type: ignore[misc]
    return f"SELECT {panel.shown} FROM (\n{text}\n) ORDER BY time" if panel.shown else text


def dashboard(uid: str) -> dict[str, Any]:
    """One dashboard as Grafana's JSON."""
    title, panels = DASHBOARDS[uid]
    shown = [_panel(number, panel) for number, panel in enumerate(panels)]
    text = json.dumps(shown)
    used = [name for name in VARIABLES if f"${{{name}:" in text]
    return {
        "uid": f"fieldline-{uid}",
        "title": title,
        "tags": ["fieldline"],
        "schemaVersion": 41,
        "editable": True,
        "timezone": "browser",
        "time": {"from": "now-6h", "to": "now"},
        "refresh": "30s",
        "annotations": {"list": []},
        "templating": {"list": [_variable(name) for name in used]},
        "panels": shown,
    }


def _panel(number: int, panel: Panel) -> dict[str, Any]:
    kind = "timeseries" if panel.shown else "table"
    target = {
        "refId": "A",
        "datasource": SOURCE,
        "editorType": "sql",
        "queryType": kind,
        "format": 0 if panel.shown else 1,
        "rawSql": sql(panel),
    }
    return {
        "id": number + 1,
        "type": kind,
        "title": panel.title,
        "description": load(panel.query).title,
        "datasource": SOURCE,
        "gridPos": {"h": 9, "w": 12, "x": number % 2 * 12, "y": number // 2 * 9},
        "fieldConfig": {"defaults": {}, "overrides": []},
        "options": {},
        "targets": [target],
    }


def _variable(name: str) -> dict[str, Any]:
    return {
        "name": name,
        "label": name.capitalize(),
        "type": "query",
        "datasource": SOURCE,
        "query": VARIABLES[name],
        "refresh": 2,
        "multi": False,
        "includeAll": False,
    }


def files() -> dict[str, str]:
    """The files by their names. YAML is written as JSON, which YAML contains."""
    source = {
        "name": "Fieldline",
        **SOURCE,
        "jsonData": {
            "host": "$FIELDLINE_CLICKHOUSE_HOST",
            "port": 8123,
            "protocol": "http",
            "secure": False,
            "username": "$FIELDLINE_CLICKHOUSE_USER",
            "defaultDatabase": "fieldline",
        },
        "secureJsonData": {"password": "$FIELDLINE_CLICKHOUSE_PASSWORD"},
    }
    provider = {"name": "fieldline", "type": "file", "options": {"path": "/etc/grafana/dashboards/fieldline"}}
    made: dict[str, Any] = {f"{uid}.json": dashboard(uid) for uid in DASHBOARDS}
    made["datasource.yaml"] = {"apiVersion": 1, "datasources": [source]}
    made["provider.yaml"] = {"apiVersion": 1, "providers": [provider]}
    return {name: json.dumps(content, indent=2) + "\n" for name, content in made.items()}


def run(out: Path) -> int:
    """Write the files into a folder, which is made. Raises FieldlineError."""
    made = files()
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            out.joinpath(name).write_text(content, encoding="utf-8")
    except OSError as error:
        raise FieldlineError(f"cannot write to {out}: {error.strerror}. Choose another folder with --out.") from error
    print(f"{len(made)} files for Grafana are in {out}: {', '.join(sorted(made))}. docs/grafana.md says where they go.")
    return 0

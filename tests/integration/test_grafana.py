"""Grafana's files: they are what the generator makes, and the engine answers every panel's query.

Macros are expanded as the plugin's pkg/macros/macros.go does, variables as Grafana's format `sqlstring` does.
"""

import json
import re
from pathlib import Path

import pytest

from analytics.grafana import DASHBOARDS, VARIABLES, dashboard, files
from analytics.migrate import migrate
from ingest.clickhouse.client import connect
from tests.clickhouse import clickhouse
from tests.commands import fieldline

COMMITTED = Path(__file__).parents[2] / "analytics" / "dashboards"
DEVICE = "o'brien"
EXPANDED = {
    "$__fromTime_ms": "fromUnixTimestamp64Milli(1767225600000)",
    "$__toTime_ms": "fromUnixTimestamp64Milli(1767312000000)",
    "$__interval_s": "60",
    "${device:sqlstring}": "'o''brien'",
    "${metric:sqlstring}": "'power'",
}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with clickhouse(tmp_path_factory.mktemp("grafana") / "ch") as running:
        connection = connect(running.url, database="default")
        migrate(connection)
        connection.command(
            "INSERT INTO fieldline.readings (device, metric, measured_at, received_at, ingested_at, value, seq)"
            " SELECT {device:String}, 'power', toDateTime64('2026-01-01 01:00:00', 3, 'UTC') + number AS at,"
            " at, at, number, number + 1 FROM numbers(1000)",
            parameters={"device": DEVICE},
        )
        yield connection
        connection.close()


def test_the_committed_files_are_what_the_generator_makes():
    found = {path.name: path.read_text(encoding="utf-8") for path in COMMITTED.iterdir()}
    assert found == files(), "run: fieldline analytics grafana --out analytics/dashboards"


def test_the_command_writes_them(tmp_path):
    done = fieldline("analytics", "grafana", "--out", str(tmp_path / "new" / "folder"))
    assert done.status == 0, done
    assert {path.name: path.read_text() for path in (tmp_path / "new" / "folder").iterdir()} == files()
    (tmp_path / "file").touch()
    refused = fieldline("analytics", "grafana", "--out", str(tmp_path / "file"))
    assert refused.status == 1
    assert "Choose another folder with --out" in refused.err


@pytest.mark.parametrize(
    ("uid", "number"), [(uid, number) for uid, (_, panels) in DASHBOARDS.items() for number in range(len(panels))]
)
def test_the_engine_answers_every_panel(client, uid, number):
    panel = json.loads(json.dumps(dashboard(uid)))["panels"][number]
    text = panel["targets"][0]["rawSql"]
    for macro, value in EXPANDED.items():
        text = text.replace(macro, value)
    assert not re.search(r"\$__|\$\{|\{\w+:", text)
    found = client.query(text)
    if uid == "device":
        assert found.row_count > 0
        if panel["type"] == "timeseries":
            assert found.column_names[0] == "time"


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_list_what_is_there(client, name):
    assert client.query(VARIABLES[name]).result_rows == [({"device": DEVICE, "metric": "power"}[name],)]

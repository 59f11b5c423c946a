"""The named queries about gateways and custody: what the ingest tier has written for a fleet, and what they make of it.

g1 is here, g2 fell silent an hour ago, g3 has not reported yet; g4 has readings only.
"""

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from analytics.migrate import migrate
from ingest.clickhouse.client import connect
from tests.asked import COLUMNS, rows_of
from tests.clickhouse import clickhouse

REPORTED = [
    *("gateway", "epoch", "reported_at", "agent_version", "collectors", "spool_records", "spool_bytes"),
    *("spool_oldest_at", "mark", "last_seq", "thinned"),
]
INTENDED = ["worker", "number", "done", "partitions", "created_at", "ranges", "measured_min", "measured_max"]
BURIED = ["gateway", "epoch", "seq", "received_at", "ingested_at", "source", "reason", "raw"]
REPLAYED = ["gateway", "epoch", "seq", "replay", "done", "readings", "replayed_at"]


@pytest.fixture(scope="module")
def now():
    return datetime.now(UTC).replace(microsecond=0)


@pytest.fixture(scope="module")
def server(tmp_path_factory, now):
    with clickhouse(tmp_path_factory.mktemp("fleet") / "ch") as running:
        client = connect(running.url, database="default")
        migrate(client)
        fill(client, now)
        client.close()
        yield running


@pytest.fixture
def client(server):
    connection = connect(server.url)
    yield connection
    connection.close()


def fill(client, now):
    minute, two, hour = (now - timedelta(minutes=minutes) for minutes in (1, 2, 60))
    announced = [
        (1, hour, [("g2", "e2", 1, 100)]),
        (2, two, [("g1", "e1", 1, 40)]),
        (3, minute, [("g1", "e1", 41, 100), ("g3", "e3", 1, 5)]),
    ]
    intents = [["w", number, done, [0], at, spans, at, at] for number, at, spans in announced for done in (0, 1)]
    client.insert("fieldline.intents", intents, INTENDED)
    marks = [("g1", "e1", 100, minute), ("g2", "e2", 100, hour), ("g3", "e3", 5, minute)]
    client.insert("fieldline.ledger", [[gateway, epoch, mark, [], "w", 3, 3, at] for gateway, epoch, mark, at in marks])
    reports = [
        ["g1", "e1", minute, "1.0", "mqtt: up", 7, 4096, two, 100, 107, 3],
        ["g2", "e2", hour, "1.0", "", 0, 0, None, 100, 100, 0],
    ]
    client.insert("fieldline.gateways", reports, REPORTED)
    letters = [
        ["g1", "e1", 50, minute, minute, "devices/a", "field 'x' is 17", b"{"],
        ["g1", "e1", 51, minute, minute, "devices/b", "field 'y' is 18", b"{"],
        ["g2", "", 0, hour, hour, "", "the batch is broken", b"\xff"],
    ]
    client.insert("fieldline.dead_letters", letters, BURIED)
    client.insert("fieldline.replays", [["g1", "e1", 51, 9, done, 1, now] for done in (0, 1)], REPLAYED)
    client.insert("fieldline.losses", [["g1", "e1", 60, 69, "disk full", minute, minute]])
    readings = [
        ["d", "m", two, two, two + timedelta(milliseconds=100 * seq), 1.0, "", "", 0, "g4", "e4", seq]
        for seq in range(1, 11)
    ]
    client.insert("fieldline.readings", readings, COLUMNS)


def test_gateways(client, now):
    [g1, g2, g3] = rows_of(client, "gateways")
    assert [row["gateway"] for row in (g1, g2, g3)] == ["g1", "g2", "g3"]
    assert (g1["last_seen"], g2["last_seen"]) == (now - timedelta(minutes=1), now - timedelta(minutes=60))
    assert 60 <= g1["seconds_ago"] < 180
    assert (g1["readings_5m"], g2["readings_5m"], g3["readings_5m"]) == (100 - 2 - 10, 0, 5)
    assert g1["per_second"] == pytest.approx(88 / 300)
    assert (g1["lag_records"], g1["lag_s"], g1["spool_records"], g1["spool_bytes"]) == (7, 60, 7, 4096)
    assert (g2["lag_records"], g2["lag_s"], g3["lag_records"], g3["thinned"]) == (0, 0, None, None)
    assert (g1["dead_letters"], g1["losses"], g1["thinned"], g1["collectors"]) == (2, 10, 3, "mqtt: up")
    assert (g2["dead_letters"], g2["losses"], g3["reported_at"]) == (1, 0, None)


def test_throughput(client, now):
    found = rows_of(client, "throughput", begin=now - timedelta(minutes=30), end=now, step_s=1)
    assert [(row["gateway"], row["at"], row["records"]) for row in found] == [
        ("g1", now - timedelta(minutes=2), 40),
        ("g1", now - timedelta(minutes=1), 60),
        ("g3", now - timedelta(minutes=1), 5),
    ]
    assert sum(row["records"] for row in rows_of(client, "throughput", begin="-2h", step_s=86_400)) == 205


def test_dead_letters(client, now):
    [field, batch] = rows_of(client, "dead_letter_reasons")
    assert (field["letters"], field["replayed"], field["gateways"], field["id"][:6]) == (2, 1, 1, "g1/e1/")
    assert (batch["letters"], batch["replayed"], batch["id"]) == (1, 0, "g2")
    assert batch["first_at"] == batch["last_at"] == now - timedelta(hours=1)
    assert [row["letters"] for row in rows_of(client, "dead_letter_reasons", gateway="g2")] == [1]
    found = rows_of(client, "dead_letter_rate", begin="-2h", step_s=1)
    assert [(row["at"], row["gateway"], row["letters"]) for row in found] == [
        (now - timedelta(hours=1), "g2", 1),
        (now - timedelta(minutes=1), "g1", 2),
    ]


def test_losses_and_books(client, now):
    [loss] = rows_of(client, "losses")
    assert (loss["gateway"], loss["records"], loss["declared_at"]) == ("g1", 10, now - timedelta(minutes=1))
    books = {row["gateway"]: row for row in rows_of(client, "accounting")}
    assert (books["g1"]["committed"], books["g2"]["missing"], books["g2"]["identity_holds"]) == (100, 100, 0)


def test_ingest_latency(client, now):
    [row] = rows_of(client, "ingest_latency", begin=now - timedelta(minutes=5), end=now, step_s=10**9)
    assert (row["readings"], row["max_s"]) == (10, pytest.approx(1.0))
    took_s = np.arange(1, 11) / 10
    assert [row["p50_s"], row["p95_s"]] == pytest.approx(np.quantile(took_s, [0.5, 0.95]).tolist(), abs=0.06)


def test_storage(client):
    tables = {row["table"]: row for row in rows_of(client, "storage")}
    assert tables["readings"]["rows"] == 10
    assert tables["readings"]["bytes_per_row"] == pytest.approx(tables["readings"]["bytes_on_disk"] / 10)

"""The named queries against the real engine, each compared with the same computed here in plain Python or pandas."""

import io
import json
import math
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from analytics.migrate import migrate, run
from analytics.queries import ask, command, load, names, views
from ingest.clickhouse.client import ClickHouseError, connect
from tests.asked import COLUMNS, rows_of
from tests.clickhouse import clickhouse

BEGIN = datetime(2026, 1, 1, 0, 0, 7, tzinfo=UTC)
END = BEGIN + timedelta(days=2)
QUOTED = 'o\'brien \\ "north" {x:String} `é`'
"""A device and a metric that must be quoted, could they reach the text of a query."""


def made_readings():
    """Rows of `readings`: irregular, with gaps, with two readings in a millisecond, and with texts."""
    draw = random.Random(7)
    rows = []
    for device, metric, step_s_max in [
        ("t1", "power", 60),
        ("t1", "wind", 300),
        ("t2", "power", 600),
        (QUOTED, QUOTED, 900),
        ("t1", "energy", 120),
    ]:
        at, value = BEGIN - timedelta(seconds=50), 100.0
        while at < END + timedelta(hours=1):
            value = (
                draw.choice([0.0, value + draw.randint(0, 9)]) if draw.random() < 0.02 else value + draw.randint(0, 9)
            )
            shown = value if metric == "energy" else round(draw.gauss(50, 20), 2)
            is_text = metric != "energy" and draw.random() < 0.03
            got = (math.nan, "fault") if is_text else (shown, "")
            rows.append(
                [device, metric, at, at, at, *got, "kW" if metric == "power" else "", 0, "g1", "e1", len(rows) + 1]
            )
            again = draw.random() < 0.02
            gap_s = draw.uniform(3600, 9000) if draw.random() < 0.003 else draw.uniform(0.001, step_s_max)
            at += timedelta(milliseconds=0 if again else round(gap_s * 1000))
    return rows


ROWS = made_readings()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with clickhouse(tmp_path_factory.mktemp("queries") / "ch") as running:
        assert run(running.url, out=io.StringIO()) == 0
        client = connect(running.url)
        client.insert("fieldline.readings", ROWS, COLUMNS)
        client.close()
        yield running


@pytest.fixture
def client(server):
    connection = connect(server.url)
    yield connection
    connection.close()


def numbers(device, metric, begin=BEGIN, end=END):
    """(moment, value) of the readings that are numbers, in order."""
    found = [
        (row[2], row[11], row[5])
        for row in ROWS
        if row[:2] == [device, metric] and begin <= row[2] < end and not math.isnan(row[5])
    ]
    return [(at, value) for at, _, value in sorted(found)]


def floor(at, step_s):
    return at - timedelta(seconds=at.timestamp() % step_s)


@pytest.mark.parametrize(
    ("points", "step_s"),
    [(6000, 28.8), (172_800, 1.0), (2880, 60.0), (1000, 180.0), (48, 3600.0), (10, 18_000.0)],
    ids=["raw", "raw, a second", "minutes", "three minutes", "hours", "five hours"],
)
def test_series_equals_the_readings_from_whichever_table_it_reads(client, points, step_s):
    found = rows_of(client, "series", devices=["t1", "t2"], metrics=["power"], begin=BEGIN, end=END, points=points)
    first, last = floor(BEGIN, step_s), floor(END - timedelta(milliseconds=1), step_s) + timedelta(seconds=step_s)
    expected = []
    for device in ("t1", "t2"):
        buckets = {}
        for at, value in numbers(device, "power", first, last):
            buckets.setdefault(round(at.timestamp() * 1000) // round(step_s * 1000), []).append(value)
        expected += [(device, bucket, values) for bucket, values in sorted(buckets.items())]
    assert {row["step_s"] for row in found} == {step_s}
    assert len(found) == len(expected)
    for row, (device, bucket, values) in zip(found, expected, strict=True):
        assert (row["device"], row["metric"]) == (device, "power")
        assert round(row["at"].timestamp() * 1000) == bucket * round(step_s * 1000)
        assert (row["count"], row["min"], row["max"]) == (len(values), min(values), max(values))
        assert (row["first"], row["last"]) == (values[0], values[-1])
        assert row["mean"] == pytest.approx(sum(values) / len(values))


def test_series_reads_what_retention_has_left(tmp_path):
    """The rollups outlive the raw readings: here they are tables, with what is nowhere else any more."""
    year_ago = BEGIN - timedelta(days=365)
    columns = ["device", "metric", "bucket", "count", "min", "max", "sum", "first", "last"]
    with clickhouse(tmp_path / "ch") as running:
        client = connect(running.url, database="default")
        migrate(client)
        for table in ("rollup_1m", "rollup_1h"):
            client.command(f"DROP TABLE fieldline.{table} SYNC")
            client.command(
                f"CREATE TABLE fieldline.{table} (device String, metric String, bucket DateTime64(3, 'UTC'),"
                " count UInt64, min Float64, max Float64, sum Float64, first Float64, last Float64)"
                " ENGINE = MergeTree ORDER BY bucket"
            )
        hour = [["t1", "power", floor(at, 3600), 2, 1.0, 3.0, 4.0, 1.0, 3.0] for at in (year_ago, BEGIN)]
        client.insert("fieldline.rollup_1h", hour, columns)
        client.insert("fieldline.rollup_1m", [["t1", "power", floor(BEGIN, 60), 2, 1.0, 3.0, 4.0, 1.0, 3.0]], columns)
        given = {"devices": ["t1"], "metrics": ["power"], "points": 500}
        hours = rows_of(client, "series", begin=floor(year_ago, 3600), end=year_ago + timedelta(hours=1), **given)
        minutes = rows_of(client, "series", begin=floor(BEGIN, 3600), end=BEGIN + timedelta(hours=1), **given)
        client.close()
    assert [(row["at"], row["step_s"], row["mean"]) for row in hours] == [(floor(year_ago, 3600), 3600.0, 2.0)]
    assert [(row["at"], row["step_s"], row["mean"]) for row in minutes] == [(floor(BEGIN, 60), 60.0, 2.0)]


@pytest.mark.parametrize("step_s", [37, 600, 7200])
@pytest.mark.parametrize("fill", ["null", "previous", "linear"])
def test_resample_fills_gaps_as_pandas_does(client, step_s, fill):
    found = rows_of(client, "resample", device="t1", metric="wind", begin=BEGIN, end=END, step_s=step_s, fill=fill)
    first, last = floor(BEGIN, step_s), floor(END - timedelta(milliseconds=1), step_s) + timedelta(seconds=step_s)
    readings = numbers("t1", "wind", first, last)
    series = pd.Series([value for _, value in readings], pd.DatetimeIndex([at for at, _ in readings]))
    grid = pd.date_range(first, last, freq=f"{step_s}s", inclusive="left")
    buckets = series.groupby([floor(at, step_s) for at, _ in readings])
    means = buckets.mean().reindex(grid)
    if fill == "previous":
        means = means.ffill()
    elif fill == "linear":
        means = means.interpolate("time", limit_area="inside")
    assert [row["at"] for row in found] == list(grid)
    assert [row["count"] for row in found] == list(buckets.count().reindex(grid, fill_value=0))
    values = [math.nan if row["value"] is None else row["value"] for row in found]
    np.testing.assert_allclose(values, means.to_numpy())


def test_resample_and_top_devices_refuse_what_they_do_not_know(client):
    with pytest.raises(ClickHouseError, match="fill must be null, previous or linear"):
        ask(client, "resample", device="t1", metric="wind", begin=BEGIN, end=END, fill="cubic")
    with pytest.raises(ClickHouseError, match="by must be mean, min, max, last or count"):
        ask(client, "top_devices", metric="power", begin=BEGIN, end=END, by="median")
    for name in ("resample", "time_weighted"):
        with pytest.raises(ClickHouseError, match=r"more than 100,000 steps"):
            ask(client, name, device="t1", metric="wind", begin=BEGIN, end=END, step_s=1)


def test_lttb_keeps_the_ends_and_the_peaks_of_the_readings(client):
    readings = numbers("t1", "power")
    found = [
        (row["at"], row["value"])
        for row in rows_of(client, "lttb", device="t1", metric="power", begin=BEGIN, end=END, points=200)
    ]
    assert len(found) == 200
    assert set(found) <= set(readings)
    assert found == sorted(found)
    assert (found[0][0], found[-1][0]) == (readings[0][0], readings[-1][0])
    assert {max(readings, key=lambda r: r[1]), min(readings, key=lambda r: r[1])} <= set(found)
    few = rows_of(client, "lttb", device="t1", metric="power", begin=BEGIN, end=BEGIN + timedelta(minutes=5))
    assert [(row["at"], row["value"]) for row in few] == numbers("t1", "power", BEGIN, BEGIN + timedelta(minutes=5))


def test_rate_counts_what_a_counter_went_up_over_its_resets(client):
    step_s = 900
    found = rows_of(client, "rate", device="t1", metric="energy", begin=BEGIN, end=END, step_s=step_s)
    before = numbers("t1", "energy", BEGIN - timedelta(days=1), BEGIN)[-1][1]
    buckets = {}
    for at, value in numbers("t1", "energy"):
        bucket = buckets.setdefault(floor(at, step_s), [0.0, 0])
        bucket[0] += value if value < before else value - before
        bucket[1] += value < before
        before = value
    assert sum(resets for _, resets in buckets.values()) > 5
    assert [row["at"] for row in found] == sorted(buckets)
    for row in found:
        increase, resets = buckets[row["at"]]
        covered = min(row["at"] + timedelta(seconds=step_s), END) - max(row["at"], BEGIN)
        assert (row["increase"], row["resets"]) == (pytest.approx(increase), resets)
        assert row["per_second"] == pytest.approx(increase / covered.total_seconds())


@pytest.mark.parametrize(("device", "metric"), [("t1", "wind"), (QUOTED, QUOTED)])
def test_time_weighted_mean_is_the_area_under_the_steps(client, device, metric):
    step_s = 3600
    found = rows_of(client, "time_weighted", device=device, metric=metric, begin=BEGIN, end=END, step_s=step_s)
    held = [*numbers(device, metric, BEGIN - timedelta(days=1), BEGIN)[-1:], *numbers(device, metric), (END, 0.0)]
    edges = [BEGIN, *pd.date_range(BEGIN, END, freq="h").ceil("h"), END]
    edges = sorted({edge for edge in edges if edge <= END})
    assert [row["at"] for row in found] == edges[:-1]
    for row, (low, high) in zip(found, pairwise(edges), strict=True):
        parts = [
            (value, (min(until, high) - max(at, low)).total_seconds())
            for (at, value), (until, _) in pairwise(held)
            if at < high and until > low
        ]
        known = sum(lasted for _, lasted in parts)
        assert row["known_s"] == pytest.approx(known)
        assert row["mean"] == pytest.approx(sum(value * lasted for value, lasted in parts) / known)


def test_time_weighted_mean_is_null_before_the_first_reading(client):
    first = numbers("t1", "wind", BEGIN - timedelta(days=1))[0][0]
    [before, after] = rows_of(
        client,
        "time_weighted",
        device="t1",
        metric="wind",
        begin=floor(first, 60) - timedelta(minutes=1),
        end=floor(first, 60) + timedelta(minutes=1),
        step_s=60,
    )
    assert (before["mean"], before["known_s"]) == (None, 0)
    assert after["known_s"] == pytest.approx(60 - first.timestamp() % 60)


def test_as_of_pairs_each_reading_with_the_last_one_of_the_other_metric(client):
    found = rows_of(client, "as_of", device="t1", metric="power", other="wind", begin=BEGIN, end=END, age_s_max=240)
    ours = pd.DataFrame(numbers("t1", "power"), columns=["at", "value"])
    theirs = pd.DataFrame(numbers("t1", "wind", BEGIN - timedelta(days=1)), columns=["at", "other_value"])
    theirs["other_at"] = theirs["at"]
    merged = pd.merge_asof(
        ours, theirs.drop_duplicates("at", keep="last"), on="at", tolerance=pd.Timedelta(seconds=240)
    )
    assert merged["other_value"].isna().sum() > 10
    assert [(row["at"], row["value"]) for row in found] == list(zip(merged["at"], merged["value"], strict=True))
    values = [math.nan if row["other_value"] is None else row["other_value"] for row in found]
    np.testing.assert_array_equal(values, merged["other_value"].to_numpy())
    ages = [row["other_age_s"] for row in found if row["other_value"] is not None]
    np.testing.assert_allclose(ages, (merged["at"] - merged["other_at"]).dropna().dt.total_seconds())


def test_percentiles_are_those_of_numpy(client):
    step_s = 6 * 3600
    found = rows_of(client, "percentiles", device="t1", metric="power", begin=BEGIN, end=END, step_s=step_s)
    buckets = {}
    for at, value in numbers("t1", "power"):
        buckets.setdefault(floor(at, step_s), []).append(value)
    assert [row["at"] for row in found] == sorted(buckets)
    for row in found:
        values = buckets[row["at"]]
        expected = np.quantile(values, [0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
        assert row["count"] == len(values)
        np.testing.assert_allclose([row[name] for name in ("p05", "p25", "p50", "p75", "p95", "p99")], expected)


def test_histogram_is_that_of_numpy(client):
    values = [value for _, value in numbers("t1", "energy")]
    counts, edges = np.histogram(values, bins=8)
    found = rows_of(client, "histogram", device="t1", metric="energy", begin=BEGIN, end=END, bins=8)
    assert [row["count"] for row in found] == counts.tolist()
    np.testing.assert_allclose([row["low"] for row in found], edges[:-1])
    np.testing.assert_allclose([row["high"] for row in found], edges[1:])
    assert rows_of(client, "histogram", device="nobody", metric="energy", begin=BEGIN, end=END) == []


@pytest.mark.parametrize(("hours", "step_s"), [(48, 3600), (3, 60)])
@pytest.mark.parametrize("by", ["mean", "min", "max", "last", "count"])
def test_top_devices_sorts_whole_buckets(client, hours, step_s, by):
    end = BEGIN + timedelta(hours=hours)
    first, last = floor(BEGIN, step_s), floor(end, step_s) + timedelta(seconds=step_s)
    expected = {}
    for device in ("t1", "t2"):
        values = [value for _, value in numbers(device, "power", first, last)]
        expected[device] = {
            "mean": sum(values) / len(values),
            "min": min(values),
            "max": max(values),
            "last": values[-1],
            "count": len(values),
        }
    found = rows_of(client, "top_devices", metric="power", begin=BEGIN, end=end, by=by)
    assert [row["device"] for row in found] == sorted(expected, key=lambda name: (-expected[name][by], name))
    for row in found:
        assert {name: row[name] for name in expected[row["device"]]} == pytest.approx(expected[row["device"]])
    assert len(rows_of(client, "top_devices", metric="power", begin=BEGIN, end=end, limit=1)) == 1


def test_the_newest_readings_by_device_and_by_metric(client):
    newest = {}
    for row in ROWS:
        newest[row[0], row[1]] = max(newest.get((row[0], row[1]), row), row, key=lambda r: (r[2], r[11]))
    for row in rows_of(client, "device_latest", device="t1"):
        expected = newest["t1", row["metric"]]
        assert (row["at"], row["unit"], row["text"]) == (expected[2], expected[7], expected[6])
        assert row["value"] == pytest.approx(expected[5], nan_ok=True)
    assert [row["device"] for row in rows_of(client, "metric_latest", metric="power")] == ["t1", "t2"]
    metrics = {row["metric"]: (row["units"], row["devices"]) for row in rows_of(client, "metrics")}
    assert metrics == {"energy": ([], 1), "power": (["kW"], 2), "wind": ([], 1), QUOTED: ([], 1)}
    devices = rows_of(client, "devices")
    assert [(row["device"], row["metrics"]) for row in devices] == sorted([(QUOTED, 1), ("t1", 3), ("t2", 1)])
    assert devices[-1]["last_at"] == newest["t2", "power"][2]
    assert [row["device"] for row in rows_of(client, "devices", search="T2")] == ["t2"]


def test_raw_readings_come_latest_first(client):
    expected = sorted(
        (row for row in ROWS if row[0] == "t1" and BEGIN <= row[2] < END),
        key=lambda r: (-r[2].timestamp(), r[1], r[11]),
    )
    found = rows_of(client, "readings", device="t1", begin=BEGIN, end=END, limit=50)
    assert [(row["at"], row["metric"], row["text"]) for row in found] == [
        (row[2], row[1], row[6]) for row in expected[:50]
    ]
    found = rows_of(client, "readings", device="t1", metrics=["wind"], begin=BEGIN, end=END, limit=10_000)
    assert len(found) == sum(row[1] == "wind" for row in expected)


@pytest.mark.parametrize("name", [name for name in names() if any(p.name == "device" for p in load(name).parameters)])
def test_names_with_quotes_are_values_not_text(client, name):
    parameters = {p.name for p in load(name).parameters}
    given = {"device": QUOTED, "metric": QUOTED, "other": QUOTED, "begin": BEGIN, "end": END}
    found = rows_of(client, name, **{key: value for key, value in given.items() if key in parameters})
    assert found


GIVEN = {
    "device": "t1",
    "metric": "power",
    "devices": ["t1", "t2"],
    "metrics": ["power"],
    "other": "wind",
    "begin": BEGIN,
    "end": END,
}


@pytest.mark.parametrize("name", names())
def test_every_query_is_a_view_for_sql(client, name):
    query = load(name)
    values = query.values({p.name: GIVEN[p.name] for p in query.parameters if p.name in GIVEN})
    arguments = ", ".join(f"{key} = {literal(value)}" for key, value in values.items())
    view = f"fieldline.{views.PREFIX}{name}"
    by_view = client.query(f"SELECT * FROM {view}({arguments})" if arguments else f"SELECT * FROM {view}")
    by_name = ask(client, name, **values)
    assert by_view.column_names == by_name.column_names
    assert len(by_view.result_rows) == len(by_name.result_rows)
    if "seconds_ago" not in by_name.column_names:
        assert repr(by_view.result_rows) == repr(by_name.result_rows)


def literal(value):
    if isinstance(value, list):
        return "[" + ", ".join(map(literal, value)) + "]"
    return value if value == "[]" else "'" + str(value).replace("\\", "\\\\").replace("'", "\\'") + "'"


def test_views_are_made_again_only_when_their_text_changed(client):
    assert views.refresh(client) == []
    client.command("CREATE OR REPLACE VIEW fieldline.query_devices AS SELECT 1 AS old COMMENT 'of another version'")
    client.command("CREATE VIEW fieldline.query_of_old AS SELECT 1 AS old")
    assert views.refresh(client) == ["query_devices"]
    assert views.refresh(client) == []
    assert client.query("EXISTS fieldline.query_of_old").result_rows == [(0,)]


def test_a_query_on_the_command_line(server):
    raw = io.BytesIO()
    out, err = io.TextIOWrapper(raw, "utf-8"), io.StringIO()
    words = [
        "--devices",
        "t1",
        "--devices",
        QUOTED,
        "--metrics=power",
        f"--metrics={QUOTED}",
        "--points",
        "1",
        "--begin",
        "2026-01-01",
        "--end",
        "2026-01-03",
    ]
    status = command.run(server.url, "series", words, "JSONEachRow", out=out, err=err)
    assert (status, err.getvalue()) == (0, "")
    found = [json.loads(line) for line in raw.getvalue().splitlines()]
    assert {row["device"] for row in found} == {"t1", QUOTED}

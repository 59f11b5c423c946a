"""`fieldline analytics rollup`: brings the stored buckets of rollup_1m and rollup_1h up to date.

A bucket is recomputed as a whole from the raw rows, never incremented. What has changed is known from the intents,
not from clocks: the readings of a settled intent are complete, so their buckets are recomputed, and only then the
intent says so (`done` = 2). Until then the views compute these buckets themselves (schema/0011_rollups.sql). So a
run that was killed anywhere, or two at once, change no number that a reader sees: of a bucket the highest version
counts, and what a run takes as settled is in the table before its version is drawn.

The first run, and one after 20 days without any, is a backfill: every month of the raw table, one statement per month
and rollup. It goes on where a former one was killed, unless that is 20 days ago: by then intents are forgotten.

Readings that were inserted by hand, without an intent, are seen after the next backfill.
"""

import sys
import time
from datetime import UTC, datetime
from typing import Any, TextIO

from rich.console import Console
from rich.progress import Progress

from analytics import kept
from analytics.dead_letters import tables
from ingest.clickhouse.client import Client

BUCKETS_MS = {"rollup_1m": 60_000, "rollup_1h": 3_600_000}
INTENTS_MAX = 1_000
"""In one step: their ids are in the text of a query; ClickHouse takes 256 KiB of it."""
FOLLOW_EVERY_S = 5.0
BELIEVED_DAYS = 20
"""As in the views; settled intents are kept for 30 days."""

_KEY = "bitShiftLeft(toInt128(toUnixTimestamp64Milli(measured_at)), 64) + seq"
_SETTINGS = {"max_partitions_per_insert_block": 0}


def run(url: str | None = None, *, follow: bool = False, out: TextIO | None = None) -> int:
    """Backfill if that is needed, then take in what is settled; with `follow` until interrupted."""
    out = out or sys.stdout
    with tables(url) as client:
        if not is_kept(client):
            backfill(client, Console(file=out))
        while True:
            intents = roll_up(client)
            if intents or not follow:
                print(f"The rollups have taken in {intents:,} commits.", file=out, flush=True)
            if not follow:
                return 0
            time.sleep(FOLLOW_EVERY_S)


def run_backfill(url: str | None = None, *, out: TextIO | None = None) -> int:
    """Recompute every bucket of the raw table."""
    with tables(url) as client:
        backfill(client, Console(file=out or sys.stdout))
    return 0


def is_kept(client: Client) -> bool:
    """Whether the views use the stored buckets."""
    rows = client.query(
        f"SELECT max(rolled_at) > now64(3, 'UTC') - INTERVAL {BELIEVED_DAYS} DAY "
        "FROM fieldline.rollup_state WHERE month = 0"
    ).result_rows
    return bool(rows[0][0])


def roll_up(client: Client) -> int:
    """Take in what is settled; returns how many intents."""
    total = 0
    while True:
        now = _now(client)
        settled = client.query(
            "SELECT worker, number, toUnixTimestamp64Milli(any(created_at)) FROM fieldline.intents "
            f"GROUP BY worker, number HAVING max(done) = 1 ORDER BY worker, number LIMIT {INTENTS_MAX}"
        ).result_rows
        if settled:
            _take_in(client, settled)
            total += len(settled)
        if len(settled) < INTENTS_MAX:
            _say(client, 0, now, now)
            kept.keep(client)
            return total


def _take_in(client: Client, settled: Any) -> None:
    stamps = ",".join(f"fromUnixTimestamp64Milli({ms}, 'UTC')" for _, _, ms in settled)
    for rollup, bucket_ms in BUCKETS_MS.items():
        bucket = f"toStartOfInterval(measured_at, INTERVAL {bucket_ms} MILLISECOND)"
        touched = f"FROM fieldline.readings WHERE ingested_at IN ({stamps})"
        _recompute(
            client,
            rollup,
            f"measured_at >= (SELECT min({bucket}) {touched}) "
            f"AND (device, metric, {bucket}) IN (SELECT DISTINCT device, metric, {bucket} {touched})",
        )
    ids = ",".join(f"('{worker}',{number})" for worker, number, _ in settled)
    client.command(
        "INSERT INTO fieldline.intents SELECT * REPLACE (2 AS done) FROM fieldline.intents AS i "
        f"WHERE i.done = 1 AND (worker, number) IN ({ids})"
    )


def backfill(client: Client, console: Console) -> None:
    """Recompute all buckets, month by month; months of a backfill that was killed are not done again."""
    began, done = _begun(client)
    rows = client.query("SELECT DISTINCT toYYYYMM(measured_at) AS month FROM fieldline.readings ORDER BY month")
    months = [int(month) for (month,) in rows.result_rows]
    with Progress(console=console) as progress:
        task = progress.add_task("Backfill, months", total=len(months))
        for month in months:
            if month not in done:
                for rollup in BUCKETS_MS:
                    _recompute(client, rollup, f"toYYYYMM(measured_at) = {month}")
                _say(client, month, began, _now(client))
            progress.advance(task)
    _say(client, 0, began, began)
    client.command("DELETE FROM fieldline.rollup_state WHERE month != 0", settings={"lightweight_deletes_sync": 2})
    kept.keep(client)


def _begun(client: Client) -> tuple[int, set[int]]:
    """When the backfill began, in ms, and the months that it has done."""
    rows = client.query(
        "SELECT toUnixTimestamp64Milli(begun_at), groupArray(month) FROM fieldline.rollup_state "
        f"WHERE month != 0 AND begun_at > now64(3, 'UTC') - INTERVAL {BELIEVED_DAYS} DAY "
        "GROUP BY begun_at ORDER BY begun_at DESC LIMIT 1"
    ).result_rows
    return (int(rows[0][0]), set(rows[0][1])) if rows else (_now(client), set())


def _recompute(client: Client, rollup: str, condition: str) -> None:
    bucket = f"toStartOfInterval(measured_at, INTERVAL {BUCKETS_MS[rollup]} MILLISECOND)"
    client.command(
        f"INSERT INTO fieldline.{rollup}_buckets "
        f"(device, metric, bucket, count, min, max, sum, first, last, version) "
        f"SELECT device, metric, {bucket} AS bucket, count(), min(value), max(value), sum(value), "
        f"argMin(value, {_KEY}), argMax(value, {_KEY}), toUnixTimestamp64Nano(now64(9)) "
        f"FROM fieldline.readings WHERE replay = 0 AND NOT isNaN(value) AND {condition} "
        "GROUP BY device, metric, bucket",
        settings=_SETTINGS,
    )


def _now(client: Client) -> int:
    return int(client.query("SELECT toUnixTimestamp64Milli(now64(3))").result_rows[0][0])


def _say(client: Client, month: int, began_ms: int, rolled_ms: int) -> None:
    began, rolled = (
        datetime.fromtimestamp(ms / 1000, UTC).isoformat(" ", "milliseconds")[:23] for ms in (began_ms, rolled_ms)
    )
    client.command(
        "INSERT INTO fieldline.rollup_state (month, begun_at, rolled_at) SETTINGS async_insert = 0 "
        f"VALUES ({month}, '{began}', '{rolled}')"
    )

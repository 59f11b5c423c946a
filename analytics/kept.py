"""What is kept of the parts of `readings`: the newest reading of each device and metric, and the seqs of each gateway.

A part never changes: a merge, and a deletion of rows, makes another one with another UUID. So what was found in a part
holds for as long as that part is there, and the views `latest` and `accounting` (schema/0012_kept_parts.sql) need not
read it again. The other parts they read. Nothing has to run for their numbers to be right.

A part is read by two statements, one for each table, and counts only when it is in `kept_parts`: by a third, which
finds that as many rows are kept as the part has. A run that is killed in between leaves rows that nobody reads; the
next one writes the same again, and a row replaces its like. So do two runs at once.

A view asks twice which parts there are, and the two answers must agree. They do where `readings` is a MergeTree and
enable_shared_storage_snapshot_in_query is on, which is the default from ClickHouse 25.12 on. Through a Distributed
table replicas answer, which merge at other times. Where it is not so nothing is kept, and the views read all parts.

Parts of fewer than ROWS_MIN readings are left to the views: they are soon merged. What is kept of a part that is gone
is deleted GONE_S after that was noticed, when no query that began with it runs any more. First it ceases to count: a
partition that was detached may come back.
"""

from ingest.clickhouse.client import Client

ROWS_MIN = 200_000
GONE_S = 3600
GONE_PARTS_MIN, GONE_PARTS_MAX = 16, 1000
"""So many are deleted at once: a deletion writes the tables anew, and the ids are in the text of a query."""

_KEY = "bitShiftLeft(toInt128(toUnixTimestamp64Milli(measured_at)), 64) + seq"
_COLUMNS = "unit, measured_at, seq, value, text, quality, tags, gateway"
_MAY_BE_KEPT = (
    "SELECT 1 FROM system.tables WHERE database = 'fieldline' AND name = 'readings' AND endsWith(engine, 'MergeTree') "
    "AND (SELECT value FROM system.settings WHERE name = 'enable_shared_storage_snapshot_in_query') = '1'"
)
_NOT_THERE = "part NOT IN (SELECT _part_uuid FROM fieldline.readings WHERE _part_offset = 0)"


def keep(client: Client, rows_min: int = ROWS_MIN) -> int:
    """Read every part of at least so many readings that is not kept yet; returns how many there were."""
    if not client.query(_MAY_BE_KEPT).result_rows:
        return 0
    parts = client.query(
        "SELECT toString(_part_uuid), countIf(replay = 0) AS rows FROM fieldline.readings "
        "WHERE NOT has((SELECT groupUniqArray(part) FROM fieldline.kept_parts), _part_uuid) "
        "AND _part_uuid != toUUID('00000000-0000-0000-0000-000000000000') "  # older than UUIDs, and not merged since
        f"GROUP BY _part_uuid HAVING rows >= {rows_min} AND countIf(_part_offset = 0) = 1"
    ).result_rows
    for part, rows in parts:
        _keep(client, part, rows)
    _forget(client)
    return len(parts)


def _keep(client: Client, part: str, rows: int) -> None:
    newest = ", ".join(f"newest.{number}" for number, _ in enumerate(_COLUMNS.split(","), 1))
    client.command(
        f"INSERT INTO fieldline.kept_newest (device, metric, part, {_COLUMNS}) "
        f"SELECT device, metric, '{part}', {newest} FROM ("
        f"SELECT device, metric, argMax(({_COLUMNS}), {_KEY}) AS newest FROM fieldline.readings "
        f"WHERE _part_uuid = '{part}' GROUP BY device, metric)",
        settings={"optimize_aggregation_in_order": 1},  # a part is sorted by device and metric: four times as fast
    )
    client.command(
        "INSERT INTO fieldline.kept_seqs (gateway, epoch, chunk, part, rows, seqs) "
        f"SELECT gateway, epoch, intDiv(seq, 65536) AS chunk, '{part}', count(), groupBitmapState(seq) "
        f"FROM fieldline.readings WHERE _part_uuid = '{part}' AND replay = 0 GROUP BY gateway, epoch, chunk"
    )
    client.command(
        "INSERT INTO fieldline.kept_parts (part, gone) SELECT part, 0 FROM fieldline.kept_seqs FINAL "
        f"WHERE part = '{part}' AND part IN (SELECT part FROM fieldline.kept_newest) "
        f"GROUP BY part HAVING sum(rows) = {rows}"
    )


def _forget(client: Client) -> None:
    """Note the parts that are gone, and delete what is kept of those that were noted long ago."""
    client.command(
        "INSERT INTO fieldline.kept_parts (part, gone) SELECT part, 1 FROM fieldline.kept_parts "
        f"WHERE {_NOT_THERE} GROUP BY part HAVING max(gone) = 0"
    )
    gone = client.query(
        f"SELECT toString(part) FROM fieldline.kept_parts WHERE {_NOT_THERE} GROUP BY part "
        f"HAVING max(gone) = 1 AND minIf(at, gone = 1) < now64(3, 'UTC') - INTERVAL {GONE_S} SECOND "
        f"LIMIT {GONE_PARTS_MAX}"
    ).result_rows
    if len(gone) < GONE_PARTS_MIN:
        return
    ids = ",".join(f"'{part}'" for (part,) in gone)
    for table in ("kept_parts", "kept_newest", "kept_seqs"):
        client.command(f"DELETE FROM fieldline.{table} WHERE part IN ({ids})", settings={"lightweight_deletes_sync": 2})

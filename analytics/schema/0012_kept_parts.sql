-- What is kept of parts: a part of `readings` never changes, so what was found in it once holds for as long as it is there
-- (analytics/kept.py, docs/decisions/0028-what-is-kept-of-parts.md).
--
-- A part is known by its UUID, which no other content has, here or on another server: a merge, and a deletion of rows, makes
-- another part with another UUID. The views take what is kept of the parts that are there, and read the others. So they equal
-- the rows that are there at every moment, whatever is inserted, merged, deleted or dropped; nothing has to run for that.
--
-- All of a query sees one and the same set of parts, so no merge comes between what is kept and what is read. ClickHouse has
-- that from 25.12 on (enable_shared_storage_snapshot_in_query); where it does not, nothing is kept.
--
-- Also: `latest` has tags and gateway.

ALTER TABLE fieldline.readings MODIFY SETTING assign_part_uuids = 1;

CREATE TABLE IF NOT EXISTS fieldline.kept_parts
(
    part UUID COMMENT 'The UUID of a part of readings',
    gone UInt8 COMMENT '0: all that is kept of it is stored; 1: it is not there any more',
    at DateTime64(3, 'UTC') DEFAULT now64(3, 'UTC') COMMENT 'When that was found'
)
ENGINE = MergeTree
ORDER BY (part, gone)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Parts of readings that need not be read again';

CREATE TABLE IF NOT EXISTS fieldline.kept_newest
(
    device LowCardinality(String) COMMENT 'The sensor node',
    metric LowCardinality(String) COMMENT 'What was measured',
    part UUID COMMENT 'The part of readings',
    unit LowCardinality(String) COMMENT 'As in readings',
    measured_at DateTime64(3, 'UTC') COMMENT 'As in readings',
    seq UInt64 COMMENT 'As in readings',
    value Float64 COMMENT 'As in readings',
    text String COMMENT 'As in readings',
    quality UInt8 COMMENT 'As in readings',
    tags Map(LowCardinality(String), LowCardinality(String)) COMMENT 'As in readings',
    gateway LowCardinality(String) COMMENT 'As in readings'
)
ENGINE = ReplacingMergeTree
ORDER BY (device, metric, part)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'The newest reading of each device and metric in each part; read the view latest';

CREATE TABLE IF NOT EXISTS fieldline.kept_seqs
(
    gateway LowCardinality(String) COMMENT 'The gateway',
    epoch LowCardinality(String) COMMENT 'Its spool',
    chunk UInt64 COMMENT 'seq / 65,536, whole',
    part UUID COMMENT 'The part of readings',
    rows UInt64 COMMENT 'Readings of the chunk in the part, without replayed ones',
    seqs AggregateFunction(groupBitmap, UInt64) CODEC(ZSTD(1)) COMMENT 'Their seqs'
)
ENGINE = ReplacingMergeTree
ORDER BY (gateway, epoch, chunk, part)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Which seqs are in each part; read the view accounting';

-- Two parts have the same UUID only where somebody has attached a partition twice: these are read.
CREATE VIEW IF NOT EXISTS fieldline.kept_there
(
    part UUID COMMENT 'The UUID of a part of readings'
)
AS SELECT _part_uuid AS part
FROM fieldline.readings
WHERE has((SELECT groupUniqArray(part) FROM fieldline.kept_parts), _part_uuid) AND _part_offset = 0
GROUP BY part
HAVING count() = 1
COMMENT 'Parts that are there and need not be read';

-- Columns that a query does not ask for cost it nothing, as each has an argMax of its own. Readings of the same time and seq
-- are compared alike in all of them.
CREATE OR REPLACE VIEW fieldline.latest
(
    device LowCardinality(String) COMMENT 'The sensor node',
    metric LowCardinality(String) COMMENT 'What was measured',
    unit LowCardinality(String) COMMENT 'The unit of `value`',
    measured_at DateTime64(3, 'UTC') COMMENT 'When it was measured',
    value Float64 COMMENT 'The number; NaN where the reading is a text',
    text String COMMENT 'The text; empty where the reading is a number',
    quality UInt8 COMMENT 'A sum, as in `readings`: 0 is a time and a value that nothing speaks against',
    tags Map(LowCardinality(String), LowCardinality(String)) COMMENT 'What the gateway''s config or the topic says beside the device',
    gateway LowCardinality(String) COMMENT 'The machine that spooled the reading'
)
AS WITH (SELECT groupArray(part) FROM fieldline.kept_there) AS kept
SELECT
    r.device AS device,
    r.metric AS metric,
    argMax(r.unit, bitShiftLeft(toInt128(toUnixTimestamp64Milli(r.measured_at)), 64) + r.seq) AS unit,
    max(r.measured_at) AS measured_at,
    argMax(r.value, bitShiftLeft(toInt128(toUnixTimestamp64Milli(r.measured_at)), 64) + r.seq) AS value,
    argMax(r.text, bitShiftLeft(toInt128(toUnixTimestamp64Milli(r.measured_at)), 64) + r.seq) AS text,
    argMax(r.quality, bitShiftLeft(toInt128(toUnixTimestamp64Milli(r.measured_at)), 64) + r.seq) AS quality,
    argMax(r.tags, bitShiftLeft(toInt128(toUnixTimestamp64Milli(r.measured_at)), 64) + r.seq) AS tags,
    argMax(r.gateway, bitShiftLeft(toInt128(toUnixTimestamp64Milli(r.measured_at)), 64) + r.seq) AS gateway
FROM
(
    SELECT device, metric, unit, measured_at, seq, value, text, quality, tags, gateway
    FROM fieldline.readings
    WHERE NOT has(kept, _part_uuid)
    UNION ALL
    SELECT device, metric, unit, measured_at, seq, value, text, quality, tags, gateway
    FROM fieldline.kept_newest
    WHERE has(kept, part)
) AS r
GROUP BY device, metric
COMMENT 'The newest reading of each device and metric, by measured_at, then by seq';

-- As in 0004_replays.sql, but for what is kept of parts, and for chunks that are committed as a whole: their seqs are counted,
-- not looked at one by one. `readings` comes after the ledger here, too: what the ledger claims must be found.
CREATE OR REPLACE VIEW fieldline.accounting
(
    gateway String COMMENT 'The gateway',
    epoch String COMMENT 'Its spool',
    committed UInt64 COMMENT 'Seqs that the ledger vouches for: up to the mark, and ranges ahead of it',
    stored UInt64 COMMENT 'Committed seqs that are a reading',
    dead_lettered UInt64 COMMENT 'Committed seqs that are a dead letter, replayed or not',
    losses UInt64 COMMENT 'Committed seqs that are a declared loss',
    duplicates UInt64 COMMENT 'Rows and declared losses beyond the first for the same seq',
    missing UInt64 COMMENT 'Committed seqs that are nowhere',
    uncommitted UInt64 COMMENT 'Seqs in the tables that the ledger does not cover yet: in flight, or waiting for recovery',
    identity_holds UInt8 COMMENT '1 when committed = stored + dead_lettered + losses and nothing is there twice'
)
AS SELECT
    gateway,
    epoch,
    any(committed_seqs) AS committed,
    sum(committed_rows) - sum(committed_dead) AS stored,
    sum(committed_dead) AS dead_lettered,
    any(committed_lost_seqs) - sum(lost_rows) AS losses,
    sum(rows) - sum(row_seqs) + any(declared_seqs) - any(lost_seqs) + sum(lost_rows) AS duplicates,
    committed - stored - dead_lettered - losses AS missing,
    sum(row_seqs) - sum(committed_rows) + any(lost_seqs) - any(committed_lost_seqs) AS uncommitted,
    missing = 0 AND duplicates = 0 AS identity_holds
FROM
(
    SELECT
        gateway,
        epoch,
        rows,
        bitmapCardinality(seqs) AS row_seqs,
        bitmapMin(seqs) AS first_seq,
        bitmapMax(seqs) AS last_seq,
        arrayExists(r -> r.1 <= first_seq AND r.2 >= last_seq, committed_ranges) AS all_committed,
        arrayFilter(r -> NOT all_committed AND r.1 <= last_seq AND r.2 >= first_seq, committed_ranges) AS committed_here,
        arrayFilter(r -> r.1 <= last_seq AND r.2 >= first_seq, committed_lost) AS lost_here,
        arraySum(r -> bitmapCardinality(bitmapSubsetInRange(seqs, r.1, least(r.2, last_seq) + 1)), committed_here) AS some_rows,
        arraySum(r -> bitmapCardinality(bitmapSubsetInRange(dead_seqs, r.1, least(r.2, last_seq) + 1)), committed_here) AS some_dead,
        if(all_committed, row_seqs, some_rows) AS committed_rows,
        if(all_committed, bitmapCardinality(dead_seqs), some_dead) AS committed_dead,
        arraySum(r -> bitmapCardinality(bitmapSubsetInRange(seqs, r.1, least(r.2, last_seq) + 1)), lost_here) AS lost_rows,
        arraySum(r -> r.2 - r.1 + 1, committed_ranges) AS committed_seqs,
        arraySum(r -> r.2 - r.1 + 1, committed_lost) AS committed_lost_seqs,
        arraySum(r -> r.2 - r.1 + 1, lost_ranges) AS lost_seqs,
        declared_seqs
    FROM
    (
        SELECT
            gateway,
            epoch,
            max(mark) AS mark_seq,
            arrayFilter(
                r -> r.1 <= r.2,
                arrayPushFront(
                    arrayMap(r -> (greatest(r.1, mark_seq + 1), r.2), groupArrayArray(ahead)),
                    (toUInt64(1), mark_seq)
                )
            ) AS committed_ranges,
            groupArrayArray(lost) AS lost_ranges,
            sum(declared) AS declared_seqs,
            arrayFilter(
                r -> r.1 <= r.2,
                arrayFlatten(arrayMap(
                    c -> arrayMap(l -> (greatest(c.1, l.1), least(c.2, l.2)), lost_ranges),
                    committed_ranges
                ))
            ) AS committed_lost
        FROM
        (
            SELECT
                gateway,
                epoch,
                argMax(l.mark, version) AS mark,
                argMax(l.ahead, version) AS ahead,
                CAST([], 'Array(Tuple(UInt64, UInt64))') AS lost,
                toUInt64(0) AS declared
            FROM fieldline.ledger AS l
            GROUP BY gateway, epoch
            UNION ALL
            SELECT
                toString(gateway) AS gateway,
                toString(epoch) AS epoch,
                0,
                [],
                groupArrayIf((cut_first, last_seq), cut_first <= last_seq),
                toUInt64(sum(last_seq - first_seq + 1))
            FROM
            (
                SELECT
                    gateway,
                    epoch,
                    first_seq,
                    last_seq,
                    greatest(
                        first_seq,
                        1 + max(last_seq) OVER (
                            PARTITION BY gateway, epoch ORDER BY first_seq, last_seq
                            ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
                        )
                    ) AS cut_first
                FROM fieldline.losses
            )
            GROUP BY gateway, epoch
        )
        GROUP BY gateway, epoch
    ) AS ranges
    FULL JOIN
    (
        SELECT
            toString(gateway) AS gateway,
            toString(epoch) AS epoch,
            chunk,
            sum(rows_of_table) AS rows,
            groupBitmapMergeState(seqs_of_table) AS seqs,
            groupBitmapMergeStateIf(seqs_of_table, dead) AS dead_seqs
        FROM
        (
            WITH (SELECT groupArray(part) FROM fieldline.kept_there) AS kept
            SELECT gateway, epoch, intDiv(seq, 65536) AS chunk, 0 AS dead, count() AS rows_of_table, groupBitmapState(seq) AS seqs_of_table
            FROM fieldline.readings
            WHERE replay = 0 AND NOT has(kept, _part_uuid)
            GROUP BY gateway, epoch, chunk
            UNION ALL
            SELECT gateway, epoch, chunk, 0 AS dead, rows AS rows_of_table, seqs AS seqs_of_table
            FROM fieldline.kept_seqs FINAL
            WHERE has(kept, part)
            UNION ALL
            SELECT gateway, epoch, intDiv(seq, 65536) AS chunk, 1 AS dead, count() AS rows_of_table, groupBitmapState(seq) AS seqs_of_table
            FROM fieldline.dead_letters
            WHERE epoch != ''
            GROUP BY gateway, epoch, chunk
        )
        GROUP BY gateway, epoch, chunk
    ) AS chunks USING (gateway, epoch)
)
GROUP BY gateway, epoch
SETTINGS join_use_nulls = 0
COMMENT 'Where every seq of every (gateway, epoch) is: the promise, as a query';

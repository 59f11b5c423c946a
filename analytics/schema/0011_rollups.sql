-- Rollups that are kept: buckets are recomputed as a whole, never incremented (analytics/rollup.py, docs/rollups.md).
--
-- A stored bucket counts while no reading has come since: the views compute from the raw rows every bucket of an intent
-- that is not in the rollups yet (`done` below 2), and every bucket that has replayed readings, which may be deleted.
-- Where no run has been in the last 20 days everything is computed from the raw rows: settled intents are kept for 30.
--
-- Also: the comment of `quality` in `latest` is that of `readings` (0006).

ALTER TABLE fieldline.intents
    COMMENT COLUMN done '0: written before the rows; 1: written after the ledger; 2: its readings are in the rollups';

ALTER TABLE fieldline.readings
    ADD INDEX IF NOT EXISTS replay_range replay TYPE minmax GRANULARITY 1;

-- An intent may be settled long after it was made, by a recovery: it is kept for 30 days from then.
ALTER TABLE fieldline.intents
    ADD COLUMN IF NOT EXISTS written_at DateTime64(3, 'UTC') MATERIALIZED now64(3, 'UTC') COMMENT 'When this entry was written, by the server''s clock';

ALTER TABLE fieldline.intents
    MODIFY TTL toDateTime(written_at) + INTERVAL 30 DAY DELETE WHERE done > 0;

CREATE TABLE IF NOT EXISTS fieldline.rollup_state
(
    month UInt32 COMMENT '0: all of it; else a month of the backfill that is under way, as YYYYMM',
    begun_at DateTime64(3, 'UTC') COMMENT 'When the backfill of this month began',
    rolled_at DateTime64(3, 'UTC') COMMENT 'All that was settled by then is in the rollups'
)
ENGINE = ReplacingMergeTree(rolled_at)
ORDER BY (month, begun_at)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'How far the rollups are';

CREATE VIEW IF NOT EXISTS fieldline.rollup_fresh
(
    stamp DateTime64(3, 'UTC') COMMENT 'The ingested_at of readings that may not be in the rollups'
)
AS SELECT any(created_at) AS stamp
FROM fieldline.intents
GROUP BY worker, number
HAVING max(done) < 2
COMMENT 'What the rollups do not contain yet';

CREATE TABLE IF NOT EXISTS fieldline.rollup_1m_buckets
(
    device LowCardinality(String) COMMENT 'The sensor node',
    metric LowCardinality(String) COMMENT 'What was measured',
    bucket DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'The start of the minute of measured_at',
    count UInt64 CODEC(ZSTD(1)) COMMENT 'Readings in the bucket; texts are left out of all columns',
    min Float64 CODEC(ZSTD(1)) COMMENT 'The smallest value',
    max Float64 CODEC(ZSTD(1)) COMMENT 'The largest value',
    sum Float64 CODEC(ZSTD(1)) COMMENT 'The sum of the values',
    first Float64 CODEC(ZSTD(1)) COMMENT 'The value with the earliest measured_at',
    last Float64 CODEC(ZSTD(1)) COMMENT 'The value with the latest measured_at',
    version UInt64 CODEC(ZSTD(1)) COMMENT 'Of a bucket the highest version counts: when it was computed, in ns'
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(bucket)
ORDER BY (device, metric, bucket)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Stored buckets by minute, without replayed readings; read the view rollup_1m';

CREATE VIEW IF NOT EXISTS fieldline.rollup_1m_touched
(
    device LowCardinality(String) COMMENT 'The sensor node',
    metric LowCardinality(String) COMMENT 'What was measured',
    bucket DateTime64(3, 'UTC') COMMENT 'The start of the minute'
)
AS SELECT DISTINCT device, metric, toStartOfInterval(measured_at, INTERVAL 60000 MILLISECOND) AS bucket
FROM fieldline.readings
WHERE ingested_at IN (SELECT stamp FROM fieldline.rollup_fresh)
UNION DISTINCT
SELECT device, metric, toStartOfInterval(measured_at, INTERVAL 60000 MILLISECOND) AS bucket
FROM fieldline.readings
WHERE replay > 0
COMMENT 'Buckets whose stored values do not count';

CREATE OR REPLACE VIEW fieldline.rollup_1m
(
    device LowCardinality(String) COMMENT 'The sensor node',
    metric LowCardinality(String) COMMENT 'What was measured',
    bucket DateTime64(3, 'UTC') COMMENT 'The start of the minute of measured_at',
    count UInt64 COMMENT 'Readings in the bucket; texts are left out of all columns',
    min Float64 COMMENT 'The smallest value',
    max Float64 COMMENT 'The largest value',
    sum Float64 COMMENT 'The sum of the values',
    first Float64 COMMENT 'The value with the earliest measured_at',
    last Float64 COMMENT 'The value with the latest measured_at'
)
AS WITH
    (SELECT max(rolled_at) > now64(3, 'UTC') - INTERVAL 20 DAY FROM fieldline.rollup_state WHERE month = 0) AS kept
SELECT device, metric, bucket, count, min, max, sum, first, last
FROM fieldline.rollup_1m_buckets FINAL
WHERE kept AND (device, metric, bucket) NOT IN (SELECT device, metric, bucket FROM fieldline.rollup_1m_touched WHERE kept)
UNION ALL
SELECT
    r.device AS device,
    r.metric AS metric,
    toStartOfInterval(r.measured_at, INTERVAL 60000 MILLISECOND) AS bucket,
    count() AS count,
    min(r.value) AS min,
    max(r.value) AS max,
    sum(r.value) AS sum,
    argMin(r.value, bitShiftLeft(toInt128(toUnixTimestamp64Milli(r.measured_at)), 64) + r.seq) AS first,
    argMax(r.value, bitShiftLeft(toInt128(toUnixTimestamp64Milli(r.measured_at)), 64) + r.seq) AS last
FROM fieldline.readings AS r
WHERE NOT isNaN(r.value)
    AND (NOT kept OR r.measured_at >= (SELECT min(bucket) FROM fieldline.rollup_1m_touched WHERE kept))
    AND (NOT kept OR (r.device, r.metric, toStartOfInterval(r.measured_at, INTERVAL 60000 MILLISECOND)) IN (SELECT device, metric, bucket FROM fieldline.rollup_1m_touched WHERE kept))
GROUP BY device, metric, bucket
COMMENT 'Numeric readings by minute';

CREATE TABLE IF NOT EXISTS fieldline.rollup_1h_buckets
(
    device LowCardinality(String) COMMENT 'The sensor node',
    metric LowCardinality(String) COMMENT 'What was measured',
    bucket DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'The start of the hour of measured_at',
    count UInt64 CODEC(ZSTD(1)) COMMENT 'Readings in the bucket; texts are left out of all columns',
    min Float64 CODEC(ZSTD(1)) COMMENT 'The smallest value',
    max Float64 CODEC(ZSTD(1)) COMMENT 'The largest value',
    sum Float64 CODEC(ZSTD(1)) COMMENT 'The sum of the values',
    first Float64 CODEC(ZSTD(1)) COMMENT 'The value with the earliest measured_at',
    last Float64 CODEC(ZSTD(1)) COMMENT 'The value with the latest measured_at',
    version UInt64 CODEC(ZSTD(1)) COMMENT 'Of a bucket the highest version counts: when it was computed, in ns'
)
ENGINE = ReplacingMergeTree(version)
PARTITION BY toYYYYMM(bucket)
ORDER BY (device, metric, bucket)
SETTINGS fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Stored buckets by hour, without replayed readings; read the view rollup_1h';

CREATE VIEW IF NOT EXISTS fieldline.rollup_1h_touched
(
    device LowCardinality(String) COMMENT 'The sensor node',
    metric LowCardinality(String) COMMENT 'What was measured',
    bucket DateTime64(3, 'UTC') COMMENT 'The start of the hour'
)
AS SELECT DISTINCT device, metric, toStartOfInterval(measured_at, INTERVAL 3600000 MILLISECOND) AS bucket
FROM fieldline.readings
WHERE ingested_at IN (SELECT stamp FROM fieldline.rollup_fresh)
UNION DISTINCT
SELECT device, metric, toStartOfInterval(measured_at, INTERVAL 3600000 MILLISECOND) AS bucket
FROM fieldline.readings
WHERE replay > 0
COMMENT 'Buckets whose stored values do not count';

CREATE OR REPLACE VIEW fieldline.rollup_1h
(
    device LowCardinality(String) COMMENT 'The sensor node',
    metric LowCardinality(String) COMMENT 'What was measured',
    bucket DateTime64(3, 'UTC') COMMENT 'The start of the hour of measured_at',
    count UInt64 COMMENT 'Readings in the bucket; texts are left out of all columns',
    min Float64 COMMENT 'The smallest value',
    max Float64 COMMENT 'The largest value',
    sum Float64 COMMENT 'The sum of the values',
    first Float64 COMMENT 'The value with the earliest measured_at',
    last Float64 COMMENT 'The value with the latest measured_at'
)
AS WITH
    (SELECT max(rolled_at) > now64(3, 'UTC') - INTERVAL 20 DAY FROM fieldline.rollup_state WHERE month = 0) AS kept
SELECT device, metric, bucket, count, min, max, sum, first, last
FROM fieldline.rollup_1h_buckets FINAL
WHERE kept AND (device, metric, bucket) NOT IN (SELECT device, metric, bucket FROM fieldline.rollup_1h_touched WHERE kept)
UNION ALL
SELECT
    r.device AS device,
    r.metric AS metric,
    toStartOfInterval(r.measured_at, INTERVAL 3600000 MILLISECOND) AS bucket,
    count() AS count,
    min(r.value) AS min,
    max(r.value) AS max,
    sum(r.value) AS sum,
    argMin(r.value, bitShiftLeft(toInt128(toUnixTimestamp64Milli(r.measured_at)), 64) + r.seq) AS first,
    argMax(r.value, bitShiftLeft(toInt128(toUnixTimestamp64Milli(r.measured_at)), 64) + r.seq) AS last
FROM fieldline.readings AS r
WHERE NOT isNaN(r.value)
    AND (NOT kept OR r.measured_at >= (SELECT min(bucket) FROM fieldline.rollup_1h_touched WHERE kept))
    AND (NOT kept OR (r.device, r.metric, toStartOfInterval(r.measured_at, INTERVAL 3600000 MILLISECOND)) IN (SELECT device, metric, bucket FROM fieldline.rollup_1h_touched WHERE kept))
GROUP BY device, metric, bucket
COMMENT 'Numeric readings by hour';

CREATE OR REPLACE VIEW fieldline.latest
(
    device LowCardinality(String) COMMENT 'The sensor node',
    metric LowCardinality(String) COMMENT 'What was measured',
    unit LowCardinality(String) COMMENT 'The unit of `value`',
    measured_at DateTime64(3, 'UTC') COMMENT 'When it was measured',
    value Float64 COMMENT 'The number; NaN where the reading is a text',
    text String COMMENT 'The text; empty where the reading is a number',
    quality UInt8 COMMENT 'A sum, as in `readings`: 0 is a time and a value that nothing speaks against'
)
AS SELECT
    device,
    metric,
    newest.1 AS unit,
    newest.2 AS measured_at,
    newest.3 AS value,
    newest.4 AS text,
    newest.5 AS quality
FROM
(
    SELECT
        r.device AS device,
        r.metric AS metric,
        argMax(
            (r.unit, r.measured_at, r.value, r.text, r.quality),
            bitShiftLeft(toInt128(toUnixTimestamp64Milli(r.measured_at)), 64) + r.seq
        ) AS newest
    FROM fieldline.readings AS r
    GROUP BY device, metric
)
COMMENT 'The newest reading of each device and metric, by measured_at, then by seq';

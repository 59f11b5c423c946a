-- The tables the ingest tier writes. See analytics/migrate.py for the rules of these files.
--
-- non_replicated_deduplication_window: an insert that is sent again with the same bytes, settings and
-- token is recognised among the last 10,000 blocks of the table and leaves nothing behind.
-- fsync_*: what a receipt vouches for must survive a power cut, not only a crash of the process.

CREATE TABLE IF NOT EXISTS fieldline.readings
(
    device LowCardinality(String) COMMENT 'The sensor node that measured',
    metric LowCardinality(String) COMMENT 'What was measured, e.g. wind_speed',
    measured_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'When the device measured; if it did not say (quality 1), when the gateway received it',
    received_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'When the gateway received it, by the gateway''s clock',
    ingested_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'When the ingest worker built the block; the same for all rows of one insert',
    value Float64 CODEC(ZSTD(1)) COMMENT 'The measured number in `unit`; NaN where the reading is a text',
    text String CODEC(ZSTD(1)) COMMENT 'The measured text; empty where the reading is a number',
    unit LowCardinality(String) COMMENT 'The unit of `value`, e.g. m/s; empty when unknown',
    quality UInt8 CODEC(ZSTD(1)) COMMENT '0: measured_at is the device''s time; 1: it is the arrival at the gateway',
    gateway LowCardinality(String) COMMENT 'The machine that spooled the reading',
    epoch LowCardinality(String) COMMENT 'The random id of that spool; a wiped disk is a new epoch',
    seq UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'The record''s number in the spool, contiguous from 1 within (gateway, epoch)',
    INDEX ingested_at_range ingested_at TYPE minmax GRANULARITY 1,
    INDEX seq_range seq TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(measured_at)
ORDER BY (device, metric, measured_at)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'One row per reading; (gateway, epoch, seq) is unique';

-- Partitioned by the worker's own stamp, so that an insert is always one part: a gateway's clock may be anything.
CREATE TABLE IF NOT EXISTS fieldline.dead_letters
(
    gateway LowCardinality(String) COMMENT 'The machine that spooled the input, or, where epoch is empty, whose batch was refused',
    epoch LowCardinality(String) COMMENT 'The spool; empty for a batch that was refused on the trunk',
    seq UInt64 CODEC(Delta, ZSTD(1)) COMMENT 'The record''s number in the spool; 0 for a batch that was refused on the trunk',
    received_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'When the gateway received it, by the gateway''s clock; for a refused batch, when the worker did',
    ingested_at DateTime64(3, 'UTC') CODEC(DoubleDelta, ZSTD(1)) COMMENT 'When the ingest worker built the block',
    source String CODEC(ZSTD(1)) COMMENT 'The MQTT topic or CoAP path it came by',
    reason String CODEC(ZSTD(1)) COMMENT 'Why it could not become readings, as a sentence',
    raw String CODEC(ZSTD(3)) COMMENT 'Its bytes, as they came',
    INDEX ingested_at_range ingested_at TYPE minmax GRANULARITY 1
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(ingested_at)
ORDER BY (gateway, epoch, seq)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Input that could not become readings';

CREATE TABLE IF NOT EXISTS fieldline.losses
(
    gateway LowCardinality(String) COMMENT 'The gateway that evicted the records',
    epoch LowCardinality(String) COMMENT 'The spool they were in',
    first_seq UInt64 COMMENT 'The first evicted seq',
    last_seq UInt64 COMMENT 'The last evicted seq, inclusive',
    reason String COMMENT 'Why, as a sentence',
    declared_at DateTime64(3, 'UTC') COMMENT 'When the gateway evicted them, by the gateway''s clock',
    ingested_at DateTime64(3, 'UTC') COMMENT 'When the ingest worker built the block'
)
ENGINE = MergeTree
ORDER BY (gateway, epoch, first_seq)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Ranges of seqs that were evicted on purpose (disk full under drop_oldest) and declared';

CREATE TABLE IF NOT EXISTS fieldline.ledger
(
    gateway String COMMENT 'The gateway',
    epoch String COMMENT 'Its spool',
    mark UInt64 COMMENT 'Every seq from 1 to here is committed: a stored reading, a dead letter or a declared loss',
    ahead Array(Tuple(first UInt64, last UInt64)) COMMENT 'Committed ranges beyond the mark: inclusive, ascending, disjoint',
    worker String COMMENT 'The ingest worker that wrote this entry',
    intent UInt64 COMMENT 'The number of the worker''s intent that this entry settles',
    version UInt64 COMMENT 'The entry with the highest version counts',
    committed_at DateTime64(3, 'UTC') COMMENT 'When the worker wrote this entry'
)
ENGINE = ReplacingMergeTree(version)
ORDER BY (gateway, epoch)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Committed marks; read with FINAL or argMax by version';

-- The TTL removes settled intents only: an open one must wait for its recovery, however long that takes.
CREATE TABLE IF NOT EXISTS fieldline.intents
(
    worker String COMMENT 'The ingest worker',
    number UInt64 COMMENT 'The worker''s intents, counted from 1',
    done UInt8 COMMENT '0: written before the rows; 1: written after the ledger',
    partitions Array(UInt32) COMMENT 'The trunk partitions whose gateways are in the block',
    created_at DateTime64(3, 'UTC') COMMENT 'The ingested_at of the rows this intent announces',
    ranges Array(Tuple(gateway String, epoch String, first UInt64, last UInt64)) COMMENT 'The seq ranges of the rows, inclusive',
    measured_min DateTime64(3, 'UTC') COMMENT 'The earliest measured_at among the rows',
    measured_max DateTime64(3, 'UTC') COMMENT 'The latest measured_at among the rows'
)
ENGINE = ReplacingMergeTree(done)
ORDER BY (worker, number)
TTL toDateTime(created_at) + INTERVAL 30 DAY DELETE WHERE done = 1
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What a worker is about to insert, so that a crash in the middle can be looked up';

CREATE TABLE IF NOT EXISTS fieldline.workers
(
    partition UInt32 COMMENT 'The trunk partition: crc32(gateway) % partitions',
    fence UInt64 COMMENT 'The worker with the highest fence owns the partition',
    worker String COMMENT 'The ingest worker',
    started_at DateTime64(3, 'UTC') COMMENT 'When it took the partition'
)
ENGINE = MergeTree
ORDER BY (partition, fence)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'Who owns which trunk partition';

CREATE TABLE IF NOT EXISTS fieldline.gateways
(
    gateway String COMMENT 'The gateway',
    epoch String COMMENT 'Its current spool',
    reported_at DateTime64(3, 'UTC') COMMENT 'When it reported, by the worker''s clock',
    agent_version String COMMENT 'The version of its edge agent',
    collectors String COMMENT 'Its collectors and their state, for people',
    spool_records UInt64 COMMENT 'Records in the spool that no receipt covers yet',
    spool_bytes UInt64 COMMENT 'Bytes of the spool on disk',
    spool_oldest_at Nullable(DateTime64(3, 'UTC')) COMMENT 'received_at of the oldest record in the spool; NULL when it is empty',
    mark UInt64 COMMENT 'The last receipt it has seen',
    last_seq UInt64 COMMENT 'The last seq it has given'
)
ENGINE = ReplacingMergeTree(reported_at)
ORDER BY gateway
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'The latest report of each gateway; read with FINAL';

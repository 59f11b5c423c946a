-- Replays: dead letters that were decoded later, through a mapping that understands them (analytics/replay.py).
--
-- Their readings carry the number of the replay and the seq of the dead letter. One letter may give many readings,
-- so the accounting leaves them out: a replayed record stays what it was when it came, a dead letter.

ALTER TABLE fieldline.readings
    ADD COLUMN IF NOT EXISTS replay UInt64 DEFAULT 0 CODEC(ZSTD(1)) COMMENT '0: stored as it was received; else the number of the replay that decoded a dead letter';

CREATE TABLE IF NOT EXISTS fieldline.replays
(
    gateway String COMMENT 'The gateway',
    epoch String COMMENT 'Its spool',
    seq UInt64 COMMENT 'The dead letter''s number in it',
    replay UInt64 COMMENT 'The number of the replay, ascending',
    done UInt8 COMMENT '0: begun; 1: its readings are stored',
    readings UInt32 COMMENT 'How many readings it gave',
    replayed_at DateTime64(3, 'UTC') COMMENT 'The ingested_at of these readings'
)
ENGINE = MergeTree
ORDER BY (gateway, epoch, seq, replay, done)
SETTINGS non_replicated_deduplication_window = 10000, fsync_after_insert = 1, fsync_part_directory = 1
COMMENT 'What became of dead letters; of a letter the entry with the highest (replay, done) counts';

-- As in 0003_accounting.sql, where its comments are, but for `WHERE replay = 0`.
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
        arrayFilter(r -> r.1 <= chunk_last AND r.2 >= chunk_first, committed_ranges) AS committed_here,
        arrayFilter(r -> r.1 <= chunk_last AND r.2 >= chunk_first, committed_lost) AS lost_here,
        arraySum(r -> bitmapCardinality(bitmapSubsetInRange(seqs, r.1, least(r.2, chunk_last) + 1)), committed_here) AS committed_rows,
        arraySum(r -> bitmapCardinality(bitmapSubsetInRange(dead_seqs, r.1, least(r.2, chunk_last) + 1)), committed_here) AS committed_dead,
        arraySum(r -> bitmapCardinality(bitmapSubsetInRange(seqs, r.1, least(r.2, chunk_last) + 1)), lost_here) AS lost_rows,
        arraySum(r -> r.2 - r.1 + 1, committed_ranges) AS committed_seqs,
        arraySum(r -> r.2 - r.1 + 1, committed_lost) AS committed_lost_seqs,
        arraySum(r -> r.2 - r.1 + 1, lost_ranges) AS lost_seqs,
        declared_seqs,
        chunk * 65536 AS chunk_first,
        chunk * 65536 + 65535 AS chunk_last
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
            SELECT gateway, epoch, intDiv(seq, 65536) AS chunk, 0 AS dead, count() AS rows_of_table, groupBitmapState(seq) AS seqs_of_table
            FROM fieldline.readings
            WHERE replay = 0
            GROUP BY gateway, epoch, chunk
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

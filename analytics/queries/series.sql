-- Readings of chosen devices and metrics in buckets, from raw readings or rollups, whichever suits the range
-- One row per device, metric and bucket that has readings: `device`, `metric`, `at` (UTC, the bucket's start), `count`,
-- `mean`, `min`, `max`, `first`, `last` (in the metric's unit), `step_s` (the bucket's length in seconds).
-- Buckets begin at whole multiples of `step_s` since 1970 and are whole: the first and last may reach beyond the range.
-- Below a minute they are made from raw readings, below an hour from rollup_1m, else from rollup_1h; where
-- the finer table does not reach back as far as the coarser one any more (retention), from the coarser one. Texts are left out.
-- parameter devices: the devices, by name
-- parameter metrics: the metrics, by name
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter points = 500: at most so many buckets per series, but for one or two at the edges
WITH
    toUnixTimestamp64Milli({begin:DateTime64(6, 'UTC')}) AS begin_ms,
    toUnixTimestamp64Milli({end:DateTime64(6, 'UTC')}) AS end_ms,
    intDiv(greatest(end_ms - begin_ms, 1) - 1, greatest({points:UInt32}, 1)) + 1 AS wanted_ms,
    (
        SELECT bucket
        FROM fieldline.rollup_1h
        WHERE wanted_ms < 3600000 AND device IN {devices:Array(String)} AND metric IN {metrics:Array(String)}
            AND bucket >= {begin:DateTime64(6, 'UTC')} AND bucket < {end:DateTime64(6, 'UTC')}
        ORDER BY bucket
        LIMIT 1
    ) AS hours_from,
    (
        SELECT bucket
        FROM fieldline.rollup_1m
        WHERE wanted_ms < 3600000 AND device IN {devices:Array(String)} AND metric IN {metrics:Array(String)}
            AND bucket >= {begin:DateTime64(6, 'UTC')} AND bucket < least({end:DateTime64(6, 'UTC')}, ifNull(hours_from + INTERVAL 1 HOUR, {end:DateTime64(6, 'UTC')}))
        ORDER BY bucket
        LIMIT 1
    ) AS minutes_from,
    (
        SELECT measured_at
        FROM fieldline.readings
        WHERE wanted_ms < 60000 AND device IN {devices:Array(String)} AND metric IN {metrics:Array(String)}
            AND measured_at >= {begin:DateTime64(6, 'UTC')} AND measured_at < least({end:DateTime64(6, 'UTC')}, minutes_from + INTERVAL 1 MINUTE)
            AND NOT isNaN(value)
        ORDER BY measured_at
        LIMIT 1
    ) AS raw_from,
    isNotNull(hours_from) AND isNull(minutes_from) AS minutes_gone,
    isNotNull(minutes_from) AND isNull(raw_from) AS raw_gone,
    multiIf(wanted_ms >= 3600000 OR minutes_gone, 3600000, wanted_ms >= 60000 OR raw_gone, 60000, 1) AS unit_ms,
    intDiv(wanted_ms + unit_ms - 1, unit_ms) * unit_ms AS step_ms,
    fromUnixTimestamp64Milli(begin_ms - positiveModulo(begin_ms, step_ms), 'UTC') AS from_at,
    fromUnixTimestamp64Milli(end_ms + positiveModulo(-end_ms, step_ms), 'UTC') AS until_at
SELECT
    p.device AS device,
    p.metric AS metric,
    fromUnixTimestamp64Milli(p.at_ms - positiveModulo(p.at_ms, step_ms), 'UTC') AS at,
    sum(p.count) AS count,
    sum(p.sum) / sum(p.count) AS mean,
    min(p.min) AS min,
    max(p.max) AS max,
    argMin(p.first, (p.at_us, p.seq)) AS first,
    argMax(p.last, (p.at_us, p.seq)) AS last,
    step_ms / 1000 AS step_s
FROM
(
    SELECT
        device, metric, toUnixTimestamp64Milli(measured_at) AS at_ms, toUnixTimestamp64Micro(measured_at) AS at_us, seq,
        toUInt64(1) AS count, value AS sum, value AS min, value AS max, value AS first, value AS last
    FROM fieldline.readings
    WHERE unit_ms = 1 AND device IN {devices:Array(String)} AND metric IN {metrics:Array(String)}
        AND measured_at >= from_at AND measured_at < until_at AND NOT isNaN(value)
    UNION ALL
    SELECT
        device, metric, toUnixTimestamp64Milli(bucket) AS at_ms, toUnixTimestamp64Micro(bucket) AS at_us, toUInt64(0) AS seq,
        count, sum, min, max, first, last
    FROM fieldline.rollup_1m
    WHERE unit_ms = 60000 AND device IN {devices:Array(String)} AND metric IN {metrics:Array(String)}
        AND bucket >= from_at AND bucket < until_at
    UNION ALL
    SELECT
        device, metric, toUnixTimestamp64Milli(bucket) AS at_ms, toUnixTimestamp64Micro(bucket) AS at_us, toUInt64(0) AS seq,
        count, sum, min, max, first, last
    FROM fieldline.rollup_1h
    WHERE unit_ms = 3600000 AND device IN {devices:Array(String)} AND metric IN {metrics:Array(String)}
        AND bucket >= from_at AND bucket < until_at
) AS p
GROUP BY device, metric, at
ORDER BY device, metric, at

-- Chosen series in buckets, for a plot
-- One row per device, metric and bucket: `device`, `metric`, `at_ms` (milliseconds since 1970, the bucket's start), `mean`, `min`, `max` (in the metric's unit), `count`.
-- Buckets of less than a minute are made from raw readings, of less than an hour from rollup_1m, else from rollup_1h.
-- parameter devices: by name
-- parameter metrics: by name
-- parameter begin_ms: the first moment, milliseconds since 1970
-- parameter end_ms: the moment after the last
-- parameter step_ms: the length of a bucket; from a minute on in whole minutes, from an hour on in whole hours
SELECT
    toString(device) AS device,
    toString(metric) AS metric,
    intDiv(at, {step_ms:Int64}) * {step_ms:Int64} AS at_ms,
    sum(total) / sum(n) AS mean,
    min(low) AS min,
    max(high) AS max,
    sum(n) AS count
FROM
(
    SELECT device, metric, toUnixTimestamp64Milli(measured_at) AS at, value AS total, value AS low, value AS high, toUInt64(1) AS n
    FROM fieldline.readings
    WHERE {step_ms:Int64} < 60000 AND device IN {devices:Array(String)} AND metric IN {metrics:Array(String)} AND NOT isNaN(value)
        AND measured_at >= fromUnixTimestamp64Milli({begin_ms:Int64}, 'UTC') AND measured_at < fromUnixTimestamp64Milli({end_ms:Int64}, 'UTC')
    UNION ALL
    SELECT device, metric, toUnixTimestamp64Milli(bucket) AS at, m.sum AS total, m.min AS low, m.max AS high, m.count AS n
    FROM fieldline.rollup_1m AS m
    WHERE {step_ms:Int64} >= 60000 AND {step_ms:Int64} < 3600000 AND device IN {devices:Array(String)} AND metric IN {metrics:Array(String)}
        AND bucket >= fromUnixTimestamp64Milli({begin_ms:Int64}, 'UTC') AND bucket < fromUnixTimestamp64Milli({end_ms:Int64}, 'UTC')
    UNION ALL
    SELECT device, metric, toUnixTimestamp64Milli(bucket) AS at, h.sum AS total, h.min AS low, h.max AS high, h.count AS n
    FROM fieldline.rollup_1h AS h
    WHERE {step_ms:Int64} >= 3600000 AND device IN {devices:Array(String)} AND metric IN {metrics:Array(String)}
        AND bucket >= fromUnixTimestamp64Milli({begin_ms:Int64}, 'UTC') AND bucket < fromUnixTimestamp64Milli({end_ms:Int64}, 'UTC')
)
GROUP BY device, metric, at_ms
ORDER BY metric, device, at_ms
LIMIT 40000

-- Chosen series in buckets, for a plot, from a rollup
-- One row per device, metric and bucket: `device`, `metric`, `at_ms` (milliseconds since 1970, the bucket's start), `mean`, `min`, `max` (in the metric's unit).
-- parameter table = rollup_1m: or rollup_1h
-- parameter devices: by name
-- parameter metrics: by name
-- parameter begin_ms: the first moment, milliseconds since 1970
-- parameter end_ms: the moment after the last
-- parameter step_ms: the length of a bucket, a multiple of the rollup's
SELECT
    toString(r.device) AS device,
    toString(r.metric) AS metric,
    intDiv(toUnixTimestamp64Milli(r.bucket), {step_ms:Int64}) * {step_ms:Int64} AS at_ms,
    sum(r.sum) / sum(r.count) AS mean,
    min(r.min) AS min,
    max(r.max) AS max
FROM fieldline.{table:Identifier} AS r
WHERE r.device IN {devices:Array(String)} AND r.metric IN {metrics:Array(String)}
    AND r.bucket >= fromUnixTimestamp64Milli({begin_ms:Int64}, 'UTC') AND r.bucket < fromUnixTimestamp64Milli({end_ms:Int64}, 'UTC')
GROUP BY device, metric, at_ms
ORDER BY metric, device, at_ms
LIMIT 40000

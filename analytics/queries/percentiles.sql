-- Percentiles of one series over time
-- One row per step that has readings: `at` (UTC, the step's start), `count`, `p05`, `p25`, `p50`, `p75`, `p95`, `p99` (in the metric's
-- unit; exact, interpolated between neighbours).
-- parameter device: the device
-- parameter metric: the metric
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter step_s = 3600: the length of a step in seconds
SELECT
    fromUnixTimestamp64Milli(at_ms, 'UTC') AS at,
    count() AS count,
    (quantilesExactInclusive(0.05, 0.25, 0.5, 0.75, 0.95, 0.99)(value) AS found)[1] AS p05,
    found[2] AS p25,
    found[3] AS p50,
    found[4] AS p75,
    found[5] AS p95,
    found[6] AS p99
FROM
(
    SELECT
        value,
        toUnixTimestamp64Milli(measured_at) AS ms,
        toInt64(ms - positiveModulo(ms, greatest({step_s:UInt32}, 1) * 1000)) AS at_ms
    FROM fieldline.readings
    WHERE device = {device:String} AND metric = {metric:String}
        AND measured_at >= {begin:DateTime64(6, 'UTC')} AND measured_at < {end:DateTime64(6, 'UTC')} AND NOT isNaN(value)
)
GROUP BY at_ms
ORDER BY at_ms

-- Increase and rate of a counter that may be reset
-- One row per step that has readings: `at` (UTC, the step's start), `increase` (in the counter's unit), `per_second`,
-- `resets`. An increase is the sum of the differences from reading to reading, the last one before `begin` included; where
-- the counter is lower than before it began again at 0. A difference belongs to the step of its later reading.
-- parameter device: the device
-- parameter metric: the metric
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter step_s = 300: the length of a step in seconds
WITH
    greatest({step_s:UInt32}, 1) * 1000 AS step_ms,
    toUnixTimestamp64Milli({begin:DateTime64(6, 'UTC')}) AS begin_ms,
    toUnixTimestamp64Milli({end:DateTime64(6, 'UTC')}) AS end_ms
SELECT
    fromUnixTimestamp64Milli(bucket_ms, 'UTC') AS at,
    sum(if(value < before, value, value - before)) AS increase,
    increase / (least(bucket_ms + step_ms, end_ms) - greatest(bucket_ms, begin_ms)) * 1000 AS per_second,
    countIf(value < before) AS resets
FROM
(
    SELECT
        measured_at,
        value,
        toInt64(toUnixTimestamp64Milli(measured_at) - positiveModulo(toUnixTimestamp64Milli(measured_at), step_ms)) AS bucket_ms,
        lagInFrame(value, 1, value) OVER (ORDER BY measured_at, seq ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before
    FROM
    (
        SELECT measured_at, seq, value
        FROM fieldline.readings
        WHERE device = {device:String} AND metric = {metric:String}
            AND measured_at >= {begin:DateTime64(6, 'UTC')} AND measured_at < {end:DateTime64(6, 'UTC')} AND NOT isNaN(value)
        UNION ALL
        SELECT measured_at, seq, value
        FROM
        (
            SELECT measured_at, seq, value
            FROM fieldline.readings
            WHERE device = {device:String} AND metric = {metric:String} AND measured_at < {begin:DateTime64(6, 'UTC')} AND NOT isNaN(value)
            ORDER BY measured_at DESC, seq DESC
            LIMIT 1
        )
    )
)
WHERE measured_at >= {begin:DateTime64(6, 'UTC')}
GROUP BY bucket_ms
ORDER BY bucket_ms

-- Time-weighted mean: each value counts as long as it held
-- One row per step: `at` (UTC, the step's start, or `begin`), `mean` (NULL before the first reading), `known_s` (seconds of the
-- step in which there was a value). A value holds from its reading to the next one; the last before `begin` holds at the beginning.
-- parameter device: the device
-- parameter metric: the metric
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter step_s = 3600: the length of a step in seconds; at most 100,000 steps
WITH
    greatest({step_s:UInt32}, 1) * 1000000 AS step_us,
    toUnixTimestamp64Micro({begin:DateTime64(6, 'UTC')}) AS begin_us,
    toUnixTimestamp64Micro({end:DateTime64(6, 'UTC')}) AS end_us,
    toInt64(begin_us - positiveModulo(begin_us, step_us)) AS from_us,
    greatest(intDiv(end_us - from_us - 1, step_us) + 1, 0) AS steps
SELECT
    fromUnixTimestamp64Micro(bucket_us, 'UTC') AS at,
    if(known_s > 0, sumIf(held * lasted_us, isNotNull(held)) / 1000000 / known_s, NULL) AS mean,
    sumIf(lasted_us, isNotNull(held)) / 1000000 AS known_s
FROM
(
    SELECT
        greatest(at_us - positiveModulo(at_us, step_us), begin_us) AS bucket_us,
        last_value(value) IGNORE NULLS OVER (ORDER BY at_us, seq ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS held,
        leadInFrame(at_us, 1, end_us) OVER (ORDER BY at_us, seq ROWS BETWEEN UNBOUNDED PRECEDING AND UNBOUNDED FOLLOWING) - at_us AS lasted_us
    FROM
    (
        SELECT toUnixTimestamp64Micro(measured_at) AS at_us, seq, toNullable(value) AS value
        FROM fieldline.readings
        WHERE device = {device:String} AND metric = {metric:String}
            AND measured_at >= {begin:DateTime64(6, 'UTC')} AND measured_at < {end:DateTime64(6, 'UTC')} AND NOT isNaN(value)
        UNION ALL
        SELECT begin_us AS at_us, toUInt64(0) AS seq, toNullable(value) AS value
        FROM
        (
            SELECT value
            FROM fieldline.readings
            WHERE device = {device:String} AND metric = {metric:String} AND measured_at < {begin:DateTime64(6, 'UTC')} AND NOT isNaN(value)
            ORDER BY measured_at DESC, seq DESC
            LIMIT 1
        )
        UNION ALL
        SELECT greatest(from_us + toInt64(number) * step_us, begin_us) AS at_us, toUInt64(0) AS seq, NULL AS value
        FROM numbers(toUInt64(steps))
        WHERE NOT throwIf(steps > 100000, 'more than 100,000 steps: make step_s longer or the range shorter')
    )
)
GROUP BY bucket_us
ORDER BY bucket_us

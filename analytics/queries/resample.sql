-- One series resampled to a fixed step, its gaps filled
-- One row per step from `begin` to before `end`, all of them: `at` (UTC, the step's start, a whole multiple of the step since
-- 1970), `value` (the mean of the step's readings; in a gap as `fill` says, NULL where that gives nothing), `count` (of readings; 0 in a gap).
-- parameter device: the device
-- parameter metric: the metric
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter step_s = 300: the length of a step in seconds; whole hours and minutes are read from the rollups; at most 100,000 steps
-- parameter fill = null: null leaves gaps; previous repeats the last value; linear draws a line from the last to the next
WITH
    greatest({step_s:UInt32}, 1) * 1000 AS step_ms,
    multiIf(step_ms % 3600000 = 0, 3600000, step_ms % 60000 = 0, 60000, 1) AS unit_ms,
    toUnixTimestamp64Milli({begin:DateTime64(6, 'UTC')}) AS begin_ms,
    toUnixTimestamp64Milli({end:DateTime64(6, 'UTC')}) AS end_ms,
    toInt64(begin_ms - positiveModulo(begin_ms, step_ms)) AS from_ms,
    toInt64(end_ms + positiveModulo(-end_ms, step_ms)) AS until_ms,
    fromUnixTimestamp64Milli(from_ms, 'UTC') AS from_at,
    fromUnixTimestamp64Milli(until_ms, 'UTC') AS until_at
SELECT
    fromUnixTimestamp64Milli(at_ms, 'UTC') AS at,
    multiIf(
        isNotNull(mean) OR {fill:String} = 'null', mean,
        {fill:String} = 'previous', before,
        {fill:String} = 'linear', before + (after - before) * (at_ms - before_ms) / (after_ms - before_ms),
        throwIf(1, 'fill must be null, previous or linear')
    ) AS value,
    count
FROM
(
    SELECT
        at_ms,
        mean,
        count,
        last_value(mean) IGNORE NULLS OVER (ORDER BY at_ms ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before,
        last_value(if(isNull(mean), NULL, at_ms)) IGNORE NULLS OVER (ORDER BY at_ms ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS before_ms,
        first_value(mean) IGNORE NULLS OVER (ORDER BY at_ms ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS after,
        first_value(if(isNull(mean), NULL, at_ms)) IGNORE NULLS OVER (ORDER BY at_ms ROWS BETWEEN CURRENT ROW AND UNBOUNDED FOLLOWING) AS after_ms
    FROM
    (
        SELECT
            toInt64(p.at_ms - positiveModulo(p.at_ms, step_ms)) AS at_ms,
            toNullable(sum(p.sum) / sum(p.count)) AS mean,
            sum(p.count) AS count
        FROM
        (
            SELECT toUnixTimestamp64Milli(measured_at) AS at_ms, value AS sum, toUInt64(1) AS count
            FROM fieldline.readings
            WHERE unit_ms = 1 AND device = {device:String} AND metric = {metric:String}
                AND measured_at >= from_at AND measured_at < until_at AND NOT isNaN(value)
            UNION ALL
            SELECT toUnixTimestamp64Milli(bucket) AS at_ms, sum, count
            FROM fieldline.rollup_1m
            WHERE unit_ms = 60000 AND device = {device:String} AND metric = {metric:String}
                AND bucket >= from_at AND bucket < until_at
            UNION ALL
            SELECT toUnixTimestamp64Milli(bucket) AS at_ms, sum, count
            FROM fieldline.rollup_1h
            WHERE unit_ms = 3600000 AND device = {device:String} AND metric = {metric:String}
                AND bucket >= from_at AND bucket < until_at
        ) AS p
        WHERE NOT throwIf(intDiv(until_ms - from_ms, step_ms) > 100000, 'more than 100,000 steps: make step_s longer or the range shorter')
        GROUP BY at_ms
        ORDER BY at_ms WITH FILL FROM from_ms TO until_ms STEP step_ms
    )
)
ORDER BY at

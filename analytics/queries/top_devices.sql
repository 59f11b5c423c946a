-- Devices that stand out in one metric
-- One row per device, the highest first: `device`, `mean`, `min`, `max`, `last` (in the metric's unit), `count` (readings). From
-- rollup_1m up to six hours, else from rollup_1h: buckets that overlap the range count as a whole.
-- parameter metric: the metric
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter by = max: what to sort by: mean, min, max, last or count
-- parameter limit = 10: at most so many devices
WITH
    {end:DateTime64(6, 'UTC')} - toIntervalHour(6) > {begin:DateTime64(6, 'UTC')} AS is_long
SELECT
    p.device AS device,
    sum(p.sum) / sum(p.count) AS mean,
    min(p.min) AS min,
    max(p.max) AS max,
    argMax(p.last, p.bucket) AS last,
    sum(p.count) AS count
FROM
(
    SELECT device, bucket, count, sum, min, max, last
    FROM fieldline.rollup_1m
    WHERE NOT is_long AND metric = {metric:String}
        AND bucket > {begin:DateTime64(6, 'UTC')} - toIntervalMinute(1) AND bucket < {end:DateTime64(6, 'UTC')}
    UNION ALL
    SELECT device, bucket, count, sum, min, max, last
    FROM fieldline.rollup_1h
    WHERE is_long AND metric = {metric:String}
        AND bucket > {begin:DateTime64(6, 'UTC')} - toIntervalHour(1) AND bucket < {end:DateTime64(6, 'UTC')}
) AS p
GROUP BY device
ORDER BY
    multiIf(
        {by:String} = 'mean', mean,
        {by:String} = 'min', min,
        {by:String} = 'max', max,
        {by:String} = 'last', last,
        {by:String} = 'count', toFloat64(count),
        throwIf(1, 'by must be mean, min, max, last or count')
    ) DESC,
    device
LIMIT {limit:UInt32}

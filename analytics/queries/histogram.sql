-- Histogram of one series
-- One row per bin, from the smallest value to the largest, also the empty ones: `low`, `high` (in the metric's unit; the last
-- bin includes its `high`), `count` (readings).
-- parameter device: the device
-- parameter metric: the metric
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter bins = 20: how many bins, at most 10,000
WITH
    least(greatest({bins:UInt32}, 1), 10000) AS bins_wanted,
    (
        SELECT (min(value), max(value))
        FROM fieldline.readings
        WHERE device = {device:String} AND metric = {metric:String}
            AND measured_at >= {begin:DateTime64(6, 'UTC')} AND measured_at < {end:DateTime64(6, 'UTC')} AND NOT isNaN(value)
        HAVING count() > 0
    ) AS bounds,
    (bounds.2 - bounds.1) / bins_wanted AS width
SELECT
    bounds.1 + bin * width AS low,
    bounds.1 + (bin + 1) * width AS high,
    found.count AS count
FROM (SELECT number AS bin FROM numbers(bins_wanted)) AS bins
LEFT JOIN
(
    SELECT if(width = 0, 0, least(toUInt64((value - bounds.1) / width), toUInt64(bins_wanted - 1))) AS bin, count() AS count
    FROM fieldline.readings
    WHERE device = {device:String} AND metric = {metric:String}
        AND measured_at >= {begin:DateTime64(6, 'UTC')} AND measured_at < {end:DateTime64(6, 'UTC')} AND NOT isNaN(value)
    GROUP BY bin
) AS found USING (bin)
WHERE isNotNull(bounds)
ORDER BY bin

-- One series thinned for a plot: the readings that keep the line's shape (LTTB)
-- At most `points` rows, all of them readings: `at` (UTC), `value`. The first and the last reading are always there, peaks
-- stay (largest triangle three buckets). Reads every reading in the range: for months and years the query series is faster.
-- parameter device: the device
-- parameter metric: the metric
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter points = 500: how many rows at most
SELECT
    fromUnixTimestamp64Micro(toInt64(point.1), 'UTC') AS at,
    point.2 AS value
FROM
(
    SELECT arrayJoin(largestTriangleThreeBuckets({points:UInt32})(toUnixTimestamp64Micro(measured_at), value)) AS point
    FROM fieldline.readings
    WHERE device = {device:String} AND metric = {metric:String}
        AND measured_at >= {begin:DateTime64(6, 'UTC')} AND measured_at < {end:DateTime64(6, 'UTC')} AND NOT isNaN(value)
)
ORDER BY at

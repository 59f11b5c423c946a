-- Chosen series as readings, for a plot, thinned so that each line keeps its shape (LTTB)
-- One row per reading: `device`, `metric`, `at_ms` (milliseconds since 1970), `value` (in the metric's unit); of each series all, or `points` of them.
-- parameter devices: by name
-- parameter metrics: by name
-- parameter begin_ms: the first moment, milliseconds since 1970
-- parameter end_ms: the moment after the last
-- parameter points = 1200: how many of a series at most
SELECT device, metric, toInt64(point.1) AS at_ms, point.2 AS value
FROM
(
    SELECT
        toString(r.device) AS device,
        toString(r.metric) AS metric,
        arrayJoin(largestTriangleThreeBuckets({points:UInt32})(toUnixTimestamp64Milli(r.measured_at), r.value)) AS point
    FROM fieldline.readings AS r
    WHERE r.device IN {devices:Array(String)} AND r.metric IN {metrics:Array(String)} AND NOT isNaN(r.value)
        AND r.measured_at >= fromUnixTimestamp64Milli({begin_ms:Int64}, 'UTC') AND r.measured_at < fromUnixTimestamp64Milli({end_ms:Int64}, 'UTC')
    GROUP BY device, metric
)
ORDER BY metric, device, at_ms
LIMIT 40000

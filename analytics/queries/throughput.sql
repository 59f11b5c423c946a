-- Records stored over time, by gateway
-- One row per gateway and step in which something came: `at` (UTC, the step's start), `gateway`, `records` (readings, dead letters and
-- declared losses, as the ingest workers announced them; what a crash made them announce twice is there twice), `per_second`.
-- The announcements are kept for 30 days. Times are those of the cloud.
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter step_s = 300: the length of a step in seconds
SELECT
    fromUnixTimestamp64Milli(at_ms, 'UTC') AS at,
    range.1 AS gateway,
    sum(range.2) AS records,
    records / greatest({step_s:UInt32}, 1) AS per_second
FROM
(
    SELECT
        toUnixTimestamp64Milli(any(created_at)) AS ms,
        toInt64(ms - positiveModulo(ms, greatest({step_s:UInt32}, 1) * 1000)) AS at_ms,
        arrayJoin(arrayMap(r -> (r.gateway, r.last - r.first + 1), any(ranges))) AS range
    FROM fieldline.intents
    WHERE created_at >= {begin:DateTime64(6, 'UTC')} AND created_at < {end:DateTime64(6, 'UTC')}
    GROUP BY worker, number
)
GROUP BY at_ms, gateway
ORDER BY at, gateway

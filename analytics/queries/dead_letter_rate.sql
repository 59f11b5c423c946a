-- Dead letters over time, by gateway
-- One row per gateway and step in which some came: `at` (UTC, the step's start, by the cloud's clock), `gateway`, `letters` (count).
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter step_s = 300: the length of a step in seconds
SELECT
    fromUnixTimestamp64Milli(at_ms, 'UTC') AS at,
    gateway,
    count() AS letters
FROM
(
    SELECT
        gateway,
        toUnixTimestamp64Milli(ingested_at) AS ms,
        toInt64(ms - positiveModulo(ms, greatest({step_s:UInt32}, 1) * 1000)) AS at_ms
    FROM fieldline.dead_letters
    WHERE ingested_at >= {begin:DateTime64(6, 'UTC')} AND ingested_at < {end:DateTime64(6, 'UTC')}
)
GROUP BY at_ms, gateway
ORDER BY at, gateway

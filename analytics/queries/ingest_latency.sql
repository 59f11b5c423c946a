-- How long readings take from the gateway to the cloud, over time
-- One row per step in which readings came: `at` (UTC, the step's start, by the cloud's clock), `readings` (count), `p50_s`, `p95_s`,
-- `p99_s`, `max_s`: seconds from the arrival at the gateway to the insert, by both clocks. An outage's backlog shows here in full.
-- parameter begin = -1h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter step_s = 60: the length of a step in seconds
SELECT
    fromUnixTimestamp64Milli(at_ms, 'UTC') AS at,
    count() AS readings,
    (quantilesTDigest(0.5, 0.95, 0.99)(took_ms / 1000) AS took)[1] AS p50_s,
    took[2] AS p95_s,
    took[3] AS p99_s,
    max(took_ms) / 1000 AS max_s
FROM
(
    SELECT
        toUnixTimestamp64Milli(ingested_at) AS ms,
        ms - toUnixTimestamp64Milli(received_at) AS took_ms,
        toInt64(ms - positiveModulo(ms, greatest({step_s:UInt32}, 1) * 1000)) AS at_ms
    FROM fieldline.readings
    WHERE ingested_at >= {begin:DateTime64(6, 'UTC')} AND ingested_at < {end:DateTime64(6, 'UTC')} AND replay = 0
)
GROUP BY at_ms
ORDER BY at_ms

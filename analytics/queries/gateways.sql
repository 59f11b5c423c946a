-- Gateways, one row each
-- `gateway`, `last_seen` (UTC, when the cloud last stored something of it), `seconds_ago`, `readings_5m` (count in the last five minutes).
SELECT
    gateway,
    max(ingested_at) AS last_seen,
    dateDiff('second', last_seen, now64(3, 'UTC')) AS seconds_ago,
    countIf(ingested_at > now64(3, 'UTC') - INTERVAL 5 MINUTE) AS readings_5m
FROM fieldline.readings
GROUP BY gateway
ORDER BY gateway

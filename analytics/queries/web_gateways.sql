-- Gateways as they last reported, with what they bring now
-- One row each: `gateway`, `seconds_ago` (since its report), `spool_records` (waiting for a receipt), `spool_bytes`, `lag_s` (age of the oldest waiting record when it reported),
-- `thinned` (left out on purpose), `losses` (evicted records), `rate` (readings per second over the last minute), `agent_version`.
SELECT
    g.gateway AS gateway,
    dateDiff('second', g.reported_at, now64(3, 'UTC')) AS seconds_ago,
    g.spool_records AS spool_records,
    g.spool_bytes AS spool_bytes,
    if(g.spool_records = 0, 0, greatest(dateDiff('millisecond', ifNull(g.spool_oldest_at, g.reported_at), g.reported_at), 0) / 1000) AS lag_s,
    g.thinned AS thinned,
    l.losses AS losses,
    r.readings / 60 AS rate,
    g.agent_version AS agent_version
FROM fieldline.gateways AS g FINAL
LEFT JOIN
(
    SELECT toString(gateway) AS gateway, sum(last_seq - first_seq + 1) AS losses FROM fieldline.losses GROUP BY gateway
) AS l ON l.gateway = g.gateway
LEFT JOIN
(
    SELECT toString(gateway) AS gateway, count() AS readings
    FROM fieldline.readings
    WHERE ingested_at > now64(3, 'UTC') - INTERVAL 1 MINUTE
    GROUP BY gateway
) AS r ON r.gateway = g.gateway
ORDER BY gateway
LIMIT 1000
SETTINGS join_use_nulls = 0

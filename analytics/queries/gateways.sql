-- Gateways, one row each
-- `gateway`, `last_seen` (UTC, when the cloud last stored something of it), `seconds_ago`, `readings_5m` (count in the last five
-- minutes), `per_second` (the same as a rate), `lag_records` (its records without a receipt, as it last said), `lag_s` (the age of the
-- oldest of them then, in seconds), `spool_records`, `spool_bytes` (its backlog), `reported_at` (UTC, when it said so), `dead_letters`,
-- `losses` (records that were evicted and declared), `thinned` (readings left out on purpose), `agent_version`, `collectors` (their state).
-- What the gateway has not reported is NULL. From the ledger and the workers' announcements: however many readings there are, it is quick.
WITH now64(3, 'UTC') AS now_at, now_at - INTERVAL 5 MINUTE AS lately
SELECT
    everyone.gateway AS gateway,
    nullIf(greatest(commits.last_at, letters.last_at), toDateTime64(0, 3, 'UTC')) AS last_seen,
    dateDiff('second', last_seen, now_at) AS seconds_ago,
    greatest(toInt64(announced.records) - toInt64(letters.lately_count) - toInt64(lost.lately_count), 0) AS readings_5m,
    readings_5m / 300 AS per_second,
    report.lag_records AS lag_records,
    report.lag_s AS lag_s,
    report.spool_records AS spool_records,
    report.spool_bytes AS spool_bytes,
    report.reported_at AS reported_at,
    letters.count AS dead_letters,
    lost.count AS losses,
    report.thinned AS thinned,
    report.agent_version AS agent_version,
    report.collectors AS collectors
FROM
(
    SELECT gateway FROM fieldline.ledger
    UNION DISTINCT
    SELECT gateway FROM fieldline.gateways
    UNION DISTINCT
    SELECT toString(gateway) AS gateway FROM fieldline.dead_letters GROUP BY gateway
) AS everyone
LEFT JOIN
(
    SELECT gateway, max(committed_at) AS last_at
    FROM fieldline.ledger
    GROUP BY gateway
) AS commits USING (gateway)
LEFT JOIN
(
    SELECT range.1 AS gateway, sum(range.2) AS records
    FROM
    (
        SELECT arrayJoin(arrayMap(r -> (r.gateway, r.last - r.first + 1), any(ranges))) AS range
        FROM fieldline.intents
        WHERE created_at > lately
        GROUP BY worker, number
    )
    GROUP BY gateway
) AS announced USING (gateway)
LEFT JOIN
(
    SELECT
        toString(gateway) AS gateway,
        count() AS count,
        countIf(ingested_at > lately AND epoch != '') AS lately_count,
        max(ingested_at) AS last_at
    FROM fieldline.dead_letters
    GROUP BY gateway
) AS letters USING (gateway)
LEFT JOIN
(
    SELECT
        toString(gateway) AS gateway,
        sum(last_seq - first_seq + 1) AS count,
        sumIf(last_seq - first_seq + 1, ingested_at > lately) AS lately_count
    FROM fieldline.losses
    GROUP BY gateway
) AS lost USING (gateway)
LEFT JOIN
(
    SELECT
        gateway,
        toNullable(toInt64(last_seq) - toInt64(mark)) AS lag_records,
        toNullable(if(spool_records = 0, 0, (toUnixTimestamp64Milli(reported_at) - toUnixTimestamp64Milli(spool_oldest_at)) / 1000)) AS lag_s,
        toNullable(r.spool_records) AS spool_records,
        toNullable(r.spool_bytes) AS spool_bytes,
        toNullable(r.reported_at) AS reported_at,
        toNullable(r.thinned) AS thinned,
        toNullable(r.agent_version) AS agent_version,
        toNullable(r.collectors) AS collectors
    FROM fieldline.gateways AS r FINAL
) AS report USING (gateway)
ORDER BY gateway

-- Devices, one row each
-- `device`, `metrics` (how many), `last_at` (UTC, its newest reading by measured_at), `seconds_ago`.
-- parameter search = : a part of the name, in any case; empty: all
-- parameter limit = 10000: at most so many devices
SELECT
    device,
    count() AS metrics,
    max(measured_at) AS last_at,
    dateDiff('second', last_at, now64(3, 'UTC')) AS seconds_ago
FROM fieldline.latest
WHERE empty({search:String}) OR positionCaseInsensitiveUTF8(device, {search:String}) > 0
GROUP BY device
ORDER BY device
LIMIT {limit:UInt32}

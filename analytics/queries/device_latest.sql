-- The newest reading of each metric of a device
-- One row per metric: `metric`, `value` (in `unit`; NaN for a text), `unit`, `text`, `at` (UTC, when it was measured), `seconds_ago`,
-- `quality` (a sum, see the table readings).
-- parameter device: the device
SELECT
    metric,
    value,
    unit,
    text,
    measured_at AS at,
    dateDiff('second', at, now64(3, 'UTC')) AS seconds_ago,
    quality
FROM fieldline.latest
WHERE device = {device:String}
ORDER BY metric

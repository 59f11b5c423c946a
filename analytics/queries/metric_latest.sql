-- The newest reading of one metric on every device
-- One row per device: `device`, `value` (in `unit`; NaN for a text), `unit`, `text`, `at` (UTC, when it was measured), `seconds_ago`,
-- `quality` (a sum, see the table readings).
-- parameter metric: the metric
SELECT
    device,
    value,
    unit,
    text,
    measured_at AS at,
    dateDiff('second', at, now64(3, 'UTC')) AS seconds_ago,
    quality
FROM fieldline.latest
WHERE metric = {metric:String}
ORDER BY device

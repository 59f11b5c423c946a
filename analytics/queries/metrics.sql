-- Metrics, one row each
-- `metric`, `units` (all in which it comes), `devices` (how many have it), `last_at` (UTC, its newest reading by measured_at).
SELECT
    metric,
    arraySort(groupUniqArrayIf(unit, unit != '')) AS units,
    count() AS devices,
    max(measured_at) AS last_at
FROM fieldline.latest
GROUP BY metric
ORDER BY metric

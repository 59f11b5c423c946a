-- Devices and metrics that can be drawn
-- One row: `devices`, `metrics` (names, sorted, at most 5,000 each).
SELECT
    arraySlice(arraySort(groupUniqArray(toString(device))), 1, 5000) AS devices,
    arraySlice(arraySort(groupUniqArray(toString(metric))), 1, 5000) AS metrics
FROM fieldline.latest
WHERE NOT isNaN(value)

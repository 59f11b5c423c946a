-- Devices with their latest values
-- One row each: `device`, `seen` (UTC, the latest measured_at), `readings` (metric, value, text, unit; by metric), `devices` (how many there are like that).
-- parameter search = : part of the device's or a metric's name, in any case
-- parameter limit = 50: at most so many devices
-- parameter skip = 0: leave out so many
SELECT
    toString(device) AS device,
    max(measured_at) AS seen,
    arraySlice(arraySort(groupArray((toString(metric), value, text, toString(unit)))), 1, 24) AS readings,
    count() OVER () AS devices
FROM fieldline.latest
WHERE {search:String} = ''
    OR positionCaseInsensitiveUTF8(device, {search:String}) > 0
    OR positionCaseInsensitiveUTF8(metric, {search:String}) > 0
GROUP BY device
ORDER BY device
LIMIT {limit:UInt32} OFFSET {skip:UInt32}

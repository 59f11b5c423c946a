-- The readings of chosen series in a range, as they were measured
-- One row per reading: `device`, `metric`, `measured_at` (UTC), `value` (in `unit`), `unit`, `quality`.
-- parameter devices: by name
-- parameter metrics: by name
-- parameter begin_ms: the first moment, milliseconds since 1970
-- parameter end_ms: the moment after the last
SELECT device, metric, measured_at, value, unit, quality
FROM fieldline.readings
WHERE device IN {devices:Array(String)} AND metric IN {metrics:Array(String)} AND NOT isNaN(value)
    AND measured_at >= fromUnixTimestamp64Milli({begin_ms:Int64}, 'UTC') AND measured_at < fromUnixTimestamp64Milli({end_ms:Int64}, 'UTC')
ORDER BY device, metric, measured_at

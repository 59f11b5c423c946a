-- What is known of chosen series
-- One row each: `device`, `metric`, `unit`, `newest` (UTC, the latest measured_at).
-- parameter devices: by name
-- parameter metrics: by name
SELECT toString(device) AS device, toString(metric) AS metric, toString(unit) AS unit, measured_at AS newest
FROM fieldline.latest
WHERE device IN {devices:Array(String)} AND metric IN {metrics:Array(String)} AND NOT isNaN(value)
ORDER BY metric, device
LIMIT 100

-- The raw readings of one device
-- One row per reading, the latest first: `at` (UTC, when it was measured), `metric`, `value` (in `unit`; NaN for a text), `text`,
-- `unit`, `quality` (a sum, see the table readings), `received_at` (at the gateway), `ingested_at` (in the cloud), `gateway`.
-- parameter device: the device
-- parameter metrics = []: only these; none: all
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter limit = 1000: at most so many rows
SELECT measured_at AS at, metric, value, text, unit, quality, received_at, ingested_at, gateway
FROM fieldline.readings
WHERE device = {device:String} AND (empty({metrics:Array(String)}) OR metric IN {metrics:Array(String)})
    AND measured_at >= {begin:DateTime64(6, 'UTC')} AND measured_at < {end:DateTime64(6, 'UTC')}
ORDER BY at DESC, metric, seq
LIMIT {limit:UInt32}

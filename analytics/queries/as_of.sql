-- Two metrics of a device side by side, though they are measured at different moments (as-of join)
-- One row per reading of `metric`: `at` (UTC), `value`, `other_value` (the reading of `other` at that moment or the last before it;
-- NULL if there is none that is young enough), `other_age_s` (its age at that moment, in seconds).
-- parameter device: the device
-- parameter metric: the metric
-- parameter other: the metric beside it
-- parameter begin = -24h: the first moment
-- parameter end = now: the first moment that is not in it any more
-- parameter age_s_max = 3600: how old the other reading may be, in seconds
SELECT
    a.measured_at AS at,
    a.value AS value,
    if(other_age_s <= {age_s_max:UInt32}, b.value, NULL) AS other_value,
    (toUnixTimestamp64Micro(a.measured_at) - b.at_us) / 1000000 AS other_age_s
FROM
(
    SELECT device, measured_at, seq, value
    FROM fieldline.readings
    WHERE device = {device:String} AND metric = {metric:String}
        AND measured_at >= {begin:DateTime64(6, 'UTC')} AND measured_at < {end:DateTime64(6, 'UTC')} AND NOT isNaN(value)
) AS a
ASOF LEFT JOIN
(
    SELECT
        device,
        measured_at,
        toNullable(toUnixTimestamp64Micro(measured_at)) AS at_us,
        toNullable(argMax(r.value, r.seq)) AS value
    FROM fieldline.readings AS r
    WHERE device = {device:String} AND metric = {other:String}
        AND measured_at >= {begin:DateTime64(6, 'UTC')} - toIntervalSecond({age_s_max:UInt32})
        AND measured_at < {end:DateTime64(6, 'UTC')} AND NOT isNaN(r.value)
    GROUP BY device, measured_at
) AS b ON a.device = b.device AND a.measured_at >= b.measured_at
ORDER BY at, a.seq

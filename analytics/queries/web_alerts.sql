-- Alerts that fire, and those that ended lately
-- `rule`, `device`, `metric`, `gateway` (the subject), `state`, `severity`, `since` (UTC), `text`, `acknowledged_by` (empty: nobody), `muted_until` (UTC; 1970: not muted). Firing ones first, then the newest.
-- parameter days = 7: how far back what is over is shown
SELECT rule, device, metric, gateway, state, severity, since, text, acknowledged_by, muted_until
FROM fieldline.alerts
WHERE state = 'firing' OR since > now64(3, 'UTC') - toIntervalDay({days:UInt16})
ORDER BY state = 'firing' DESC, since DESC
LIMIT 200

-- Rules that are muted as a whole
-- `rule`, `muted_until` (UTC).
SELECT rule, argMax(until, id) AS muted_until
FROM fieldline.alert_events
WHERE kind = 'muted' AND device = '' AND metric = '' AND gateway = ''
GROUP BY rule
HAVING muted_until > now64(3, 'UTC')
ORDER BY rule

-- What happened to alerts, the latest first
-- One row per event: `at` (UTC), `rule`, `device`, `metric`, `gateway` (the subject; empty: all of the rule), `kind` (firing, resolved, acknowledged, muted), `text`, `until` (UTC, of muted), `told` (channels).
-- parameter rule = : only of this rule
-- parameter device = : only of this device
-- parameter metric = : only of this metric
-- parameter gateway = : only of this gateway
-- parameter skip = 0: leave out so many
SELECT e.at AS at, e.rule AS rule, e.device AS device, e.metric AS metric, e.gateway AS gateway, e.kind AS kind, e.text AS text, e.until AS until, n.told AS told
FROM fieldline.alert_events AS e
LEFT JOIN
(
    SELECT event, arraySort(groupUniqArray(concat(channel, if(outcome = 'sent', '', ' (given up)')))) AS told
    FROM fieldline.alert_notifications
    GROUP BY event
) AS n ON n.event = e.id
WHERE ({rule:String} = '' OR e.rule = {rule:String})
    AND ({device:String} = '' OR e.device IN ('', {device:String}))
    AND ({metric:String} = '' OR e.metric IN ('', {metric:String}))
    AND ({gateway:String} = '' OR e.gateway IN ('', {gateway:String}))
ORDER BY e.id DESC
LIMIT 15 OFFSET {skip:UInt32}
SETTINGS join_use_nulls = 0

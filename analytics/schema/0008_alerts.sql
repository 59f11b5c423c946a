-- Alerts: what rules have found (analytics/alerts). The events are the state; nothing is ever changed or removed by hand.

CREATE TABLE IF NOT EXISTS fieldline.alert_rules
(
    name String COMMENT 'The rule''s name',
    rule String COMMENT 'The rule as JSON; empty: it was removed',
    changed_at DateTime64(3, 'UTC') COMMENT 'When; the latest counts',
    changed_by String COMMENT 'Who'
)
ENGINE = ReplacingMergeTree(changed_at)
ORDER BY name
COMMENT 'Rules that were not written into alerts.toml; read with FINAL';

CREATE TABLE IF NOT EXISTS fieldline.alert_events
(
    id UInt64 COMMENT 'Milliseconds since 1970 times 2^20, plus a random part: unique, and ascending in time',
    at DateTime64(3, 'UTC') COMMENT 'When it was noticed, or said',
    rule String COMMENT 'The rule''s name',
    device String COMMENT 'The subject: a device and metric, a device, or a gateway. All three empty: every subject of the rule',
    metric String COMMENT 'See device',
    gateway String COMMENT 'See device',
    kind LowCardinality(String) COMMENT 'firing, resolved: what the rule found; acknowledged, muted: what a person said',
    severity LowCardinality(String) COMMENT 'info, warning or critical',
    value Float64 COMMENT 'What the rule measured',
    text String COMMENT 'A sentence for people',
    notify Array(String) COMMENT 'The channels that are to be told; none if it was muted',
    until DateTime64(3, 'UTC') COMMENT 'muted: until when',
    said_by String COMMENT 'acknowledged, muted: by whom'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (rule, device, metric, gateway, id)
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'What happened to alerts';

CREATE TABLE IF NOT EXISTS fieldline.alert_notifications
(
    event UInt64 COMMENT 'The event''s id',
    channel String COMMENT 'Who was told',
    at DateTime64(3, 'UTC') COMMENT 'When',
    outcome LowCardinality(String) COMMENT 'sent, or given_up',
    detail String COMMENT 'Why it was given up'
)
ENGINE = MergeTree
PARTITION BY toYYYYMM(at)
ORDER BY (event, channel)
SETTINGS non_replicated_deduplication_window = 10000
COMMENT 'Which channel has been told of which event';

CREATE VIEW IF NOT EXISTS fieldline.alerts
(
    rule String COMMENT 'The rule''s name',
    device String COMMENT 'The subject, see alert_events',
    metric String COMMENT 'The subject',
    gateway String COMMENT 'The subject',
    state LowCardinality(String) COMMENT 'firing or resolved',
    severity LowCardinality(String) COMMENT 'info, warning or critical',
    since DateTime64(3, 'UTC') COMMENT 'When the state began',
    value Float64 COMMENT 'What the rule measured then',
    text String COMMENT 'A sentence for people',
    event UInt64 COMMENT 'The id of the event that began the state',
    notify Array(String) COMMENT 'The channels that are told',
    acknowledged_by String COMMENT 'Who has acknowledged this alert; empty: nobody',
    muted_until DateTime64(3, 'UTC') COMMENT 'Until when nobody is told; 1970: not muted'
)
AS SELECT
    rule,
    device,
    metric,
    gateway,
    latest.1 AS state,
    latest.2 AS severity,
    latest.3 AS since,
    latest.4 AS value,
    latest.5 AS text,
    event,
    latest.6 AS notify,
    if(greatest(own_ack.1, wide_ack.1) > event, if(own_ack.1 > wide_ack.1, own_ack.2, wide_ack.2), '') AS acknowledged_by,
    if(own_mute.1 > wide_mute.1, own_mute.2, wide_mute.2) AS muted_until
FROM
(
    SELECT
        rule,
        device,
        metric,
        gateway,
        argMaxIf((toString(kind), toString(severity), at, value, text, notify), id, kind IN ('firing', 'resolved')) AS latest,
        maxIf(id, kind IN ('firing', 'resolved')) AS event,
        maxIf((id, said_by), kind = 'acknowledged') AS own_ack,
        maxIf((id, until), kind = 'muted') AS own_mute
    FROM fieldline.alert_events
    GROUP BY rule, device, metric, gateway
    HAVING event > 0
) AS subjects
LEFT JOIN
(
    SELECT
        rule,
        maxIf((id, said_by), kind = 'acknowledged') AS wide_ack,
        maxIf((id, until), kind = 'muted') AS wide_mute
    FROM fieldline.alert_events
    WHERE device = '' AND metric = '' AND gateway = ''
    GROUP BY rule
) AS rules USING (rule)
SETTINGS join_use_nulls = 0
COMMENT 'Every alert as it is now';

-- Alert rules that are kept in the table
-- `name`, `rule` (JSON), `changed_at` (UTC), `changed_by`. Rules of alerts.toml are not among them.
SELECT name, rule, changed_at, changed_by
FROM fieldline.alert_rules FINAL
WHERE rule != ''
ORDER BY name

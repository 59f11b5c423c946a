-- What gateways have evicted on purpose, the latest first
-- One row per range: `gateway`, `epoch`, `first_seq`, `last_seq` (inclusive), `records` (count), `reason`, `declared_at` (UTC, by the gateway's clock).
SELECT gateway, epoch, first_seq, last_seq, last_seq - first_seq + 1 AS records, reason, declared_at
FROM fieldline.losses
ORDER BY declared_at DESC
LIMIT 200

-- What gateways evicted on purpose and declared, the latest first
-- One row per range: `declared_at` (UTC, by the gateway's clock), `gateway`, `epoch`, `first_seq`, `last_seq`, `records`, `reason`.
-- parameter limit = 1000: at most so many rows
SELECT declared_at, gateway, epoch, first_seq, last_seq, last_seq - first_seq + 1 AS records, reason
FROM fieldline.losses
ORDER BY declared_at DESC, gateway, epoch, first_seq
LIMIT {limit:UInt32}

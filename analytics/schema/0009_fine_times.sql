-- Times finer than a millisecond, and clocks of devices that are known to be off (docs/time.md).
--
-- measured_at is in the sorting key, which ClickHouse cannot widen: so what it lacks has columns of its own, which take next to
-- nothing where they are 0.

ALTER TABLE fieldline.readings
    ADD COLUMN IF NOT EXISTS measured_us UInt16 DEFAULT 0 CODEC(ZSTD(1)) COMMENT 'Microseconds that measured_at lacks, 0 to 999',
    ADD COLUMN IF NOT EXISTS clock_offset_ms Int64 DEFAULT 0 CODEC(ZSTD(1)) COMMENT 'What was subtracted from the device''s time: it said measured_at + clock_offset_ms',
    ADD COLUMN IF NOT EXISTS measured_at_us DateTime64(6, 'UTC') ALIAS CAST(measured_at AS DateTime64(6, 'UTC')) + toIntervalMicrosecond(measured_us) COMMENT 'measured_at with its microseconds',
    COMMENT COLUMN quality 'A sum. 1: measured_at is the arrival at the gateway, else the device''s time; 2: the value is bad; 4: it is stale; 8: the device''s time was not believed; 16: the gateway did not know the time either, it is the latest that it can be; 32: measured_at is the device''s time less clock_offset_ms';

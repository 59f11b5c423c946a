-- Tags of a series, such as its site and line (docs/mapping.md). A reading without tags has an empty map.

ALTER TABLE fieldline.readings
    ADD COLUMN IF NOT EXISTS tags Map(LowCardinality(String), LowCardinality(String)) CODEC(ZSTD(1)) COMMENT 'What the gateway''s config or the topic says beside the device, e.g. tags[''site'']; empty where nothing is';

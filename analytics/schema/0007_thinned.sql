-- Readings that a gateway leaves out on purpose have no seq; it counts them in its spool and says how many they are.

ALTER TABLE fieldline.gateways
    ADD COLUMN IF NOT EXISTS thinned UInt64 COMMENT 'Readings left out on purpose, or in a window in place of being stored, since the spool was made';

-- A time that a device states, but that cannot be true, is replaced by the arrival; and a gateway may learn the time
-- too late for what it took before. The quality says so (docs/time.md).

ALTER TABLE fieldline.readings
    COMMENT COLUMN quality 'A sum. 1: measured_at is the arrival at the gateway, else the device''s time; 2: the device calls the value bad; 4: it calls it stale; 8: the device''s time was not believed; 16: the gateway did not know the time either, it is the latest that it can be';

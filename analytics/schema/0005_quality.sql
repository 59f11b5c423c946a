-- Devices may say of a value how good it is (Sparkplug's property Quality): the quality is a sum.

ALTER TABLE fieldline.readings
    COMMENT COLUMN quality 'A sum. 1: measured_at is the arrival at the gateway, else the device''s time; 2: the device calls the value bad; 4: it calls it stale';

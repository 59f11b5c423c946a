-- Where devices are that say so
-- One row each: `device`, `latitude`, `longitude` (degrees), by the latest readings of the metrics latitude and longitude, or lat and lon.
SELECT
    toString(device) AS device,
    anyIf(value, metric IN ('latitude', 'lat')) AS latitude,
    anyIf(value, metric IN ('longitude', 'lon')) AS longitude
FROM fieldline.latest
WHERE metric IN ('latitude', 'lat', 'longitude', 'lon') AND NOT isNaN(value)
GROUP BY device
HAVING uniq(metric) >= 2 AND abs(latitude) <= 90 AND abs(longitude) <= 180
ORDER BY device
LIMIT 5000

-- What the tables take on disk
-- One row per table: `table`, `rows`, `bytes_on_disk`, `bytes_per_row`, `bytes_uncompressed`, `parts` (active ones).
SELECT
    table,
    sum(p.rows) AS rows,
    sum(p.bytes_on_disk) AS bytes_on_disk,
    bytes_on_disk / rows AS bytes_per_row,
    sum(p.data_uncompressed_bytes) AS bytes_uncompressed,
    count() AS parts
FROM system.parts AS p
WHERE p.database = 'fieldline' AND p.active
GROUP BY table
ORDER BY bytes_on_disk DESC

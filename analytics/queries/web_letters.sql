-- Dead letters of one kind with their bytes, the latest first
-- One row each: `gateway`, `epoch`, `seq`, `received_at` (UTC), `source`, `reason`, `size` (bytes), `raw` (the first 4,096 bytes, in hexadecimal digits).
-- parameter kind: as web_dead_letters has it
-- parameter skip = 0: leave out so many
SELECT
    toString(gateway) AS gateway,
    toString(epoch) AS epoch,
    seq,
    received_at,
    source,
    d.reason AS reason,
    length(d.raw) AS size,
    hex(substring(d.raw, 1, 4096)) AS raw
FROM fieldline.dead_letters AS d
WHERE replaceRegexpAll(d.reason, '\'[^\']*\'|"[^"]*"|[0-9]+', '…') = {kind:String}
ORDER BY received_at DESC, seq DESC
LIMIT 5 OFFSET {skip:UInt32}

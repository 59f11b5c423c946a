-- Dead letters by what their reasons say, the most frequent first
-- One row each: `kind` (the reason without names and numbers), `letters`, `replayed` (counts), `gateways` (names, at most ten), `latest` (UTC), `latest_reason`, `latest_source`.
SELECT
    replaceRegexpAll(d.reason, '\'[^\']*\'|"[^"]*"|[0-9]+', '…') AS kind,
    count() AS letters,
    countIf((gateway, epoch, seq) IN (SELECT gateway, epoch, seq FROM fieldline.replays GROUP BY ALL HAVING argMax(done, (replay, done)) = 1)) AS replayed,
    arraySort(groupUniqArray(10)(toString(gateway))) AS gateways,
    max(d.received_at) AS latest,
    argMax(d.reason, received_at) AS latest_reason,
    argMax(d.source, received_at) AS latest_source
FROM fieldline.dead_letters AS d
GROUP BY kind
ORDER BY letters DESC, kind
LIMIT 100

-- Dead letters by reason
-- One row per kind of reason, the most frequent first: `letters`, `replayed` (those of them that were stored later), `gateways` (how many),
-- `first_at`, `last_at` (UTC, arrival at the gateway), and of the last one `reason`, `source` (topic or path), `id` (for `fieldline dead-letters show`).
-- Reasons are one kind when they differ in quoted names and numbers only.
-- parameter begin = -30d: the first moment, of the insert by the cloud's clock
-- parameter end = now: the first moment that is not in it any more
-- parameter gateway = : only of this one; empty: all
SELECT
    count() AS letters,
    countIf((d.gateway, d.epoch, d.seq) IN (
        SELECT gateway, epoch, seq FROM fieldline.replays GROUP BY gateway, epoch, seq HAVING argMax(done, (replay, done)) = 1
    )) AS replayed,
    uniqExact(d.gateway) AS gateways,
    min(d.received_at) AS first_at,
    max(d.received_at) AS last_at,
    argMax(d.reason, d.received_at) AS reason,
    argMax(d.source, d.received_at) AS source,
    argMax(if(d.epoch = '', d.gateway, concat(d.gateway, '/', d.epoch, '/', toString(d.seq))), d.received_at) AS id
FROM fieldline.dead_letters AS d
WHERE d.ingested_at >= {begin:DateTime64(6, 'UTC')} AND d.ingested_at < {end:DateTime64(6, 'UTC')}
    AND (empty({gateway:String}) OR d.gateway = {gateway:String})
GROUP BY replaceRegexpAll(d.reason, '\'[^\']*\'|\"[^\"]*\"|[0-9]+', '…')
ORDER BY letters DESC, reason

-- Where every record of every gateway and epoch is
-- One row each: `gateway`, `epoch`, `committed`, `stored`, `dead_lettered`, `losses`, `duplicates`, `missing`, `uncommitted` (counts of seqs), `identity_holds`.
SELECT gateway, epoch, committed, stored, dead_lettered, losses, duplicates, missing, uncommitted, identity_holds
FROM fieldline.accounting
ORDER BY identity_holds, gateway, epoch
LIMIT 1000

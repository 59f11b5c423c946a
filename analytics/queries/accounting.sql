-- The books: where every record of every gateway is
-- One row per gateway and epoch of its spool, all counts of records: `committed` = `stored` + `dead_lettered` + `losses` + `missing`;
-- `duplicates` and `missing` are 0 when the promise holds, and `identity_holds` is 1. `uncommitted`: in flight.
SELECT gateway, epoch, committed, stored, dead_lettered, losses, duplicates, missing, uncommitted, identity_holds
FROM fieldline.accounting
ORDER BY gateway, epoch

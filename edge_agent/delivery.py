"""Brings a copy of a spool to the cloud: over the trunk, under its own epoch and seqs, until all is confirmed.

The agent does this with a spool that was damaged (edge_agent.quarantine), people with an export
(edge_agent.importer). What had already arrived is not stored twice: the ledger
decides, row by row.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from broker_bridge.uplink import Uplink
from edge_agent.config import Uplink as UplinkConfig
from edge_agent.spool_copy import SpoolCopy
from telemetry.clock import Clock

LOOK_EVERY_S = 0.2


async def deliver(
    copy: SpoolCopy, config: UplinkConfig, client_id: str, clock: Clock, watch: Callable[[Uplink], None]
) -> None:
    """Send until a receipt covers all of the copy; `watch` is called a few times per second. Ends by that alone."""
    with ThreadPoolExecutor(1, "spool-copy") as thread:
        uplink = Uplink(
            source=copy,
            gateway=copy.gateway,
            partitions=config.partitions,
            options=config.options(client_id),
            limits=config.limits,
            clock=clock,
            thread=thread,
        )
        sending = asyncio.create_task(uplink.run(), name="spool-copy")
        try:
            while copy.mark < copy.next_seq - 1:
                watch(uplink)
                await asyncio.wait([sending], timeout=LOOK_EVERY_S)
                if sending.done():
                    sending.result()
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

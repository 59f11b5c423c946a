"""`fieldline ingest import`: brings a spool to the cloud by hand; its gateway will never see a network again."""

import asyncio
import contextlib
from collections.abc import Iterator
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from broker_bridge.uplink import Uplink
from edge_agent.config import Uplink as UplinkConfig
from edge_agent.delivery import deliver
from edge_agent.spool_copy import SpoolCopy
from edge_agent.spool_file import lock
from telemetry.clock import SystemClock
from telemetry.errors import FieldlineError


def run(file: Path, config: UplinkConfig, gateway: str = "") -> int:
    """`fieldline ingest import`: with a progress bar; 0 once everything is in ClickHouse, 130 after Ctrl-C.

    Raises FieldlineError for a file that is no spool, that an agent has open, or whose gateway nobody names.
    """
    with _unowned(file), contextlib.closing(SpoolCopy(file, gateway)) as copy:
        if not copy.gateway:
            raise FieldlineError(f"{file} does not say any more whose it is: name the gateway with --gateway")
        if gateway not in ("", copy.gateway):
            raise FieldlineError(f"{file} is of gateway {copy.gateway!r}, not {gateway!r}")
        begin, end = copy.mark, copy.next_seq - 1
        print(
            f"Gateway {copy.gateway}, epoch {copy.epoch}: {end - begin} records wait in {file}, "
            f"{end - begin - copy.readable} of them declared lost."
        )
        try:
            asyncio.run(_with_progress(copy, config))
        except KeyboardInterrupt:
            print(f"Stopped: seqs up to {copy.mark} are in ClickHouse. The same command goes on from there.")
            return 130
        print(f"Everything up to seq {end} is in ClickHouse.")
    return 0


@contextlib.contextmanager
def _unowned(file: Path) -> Iterator[None]:
    """A spool that is read where its agent left it must not change meanwhile."""
    if not file.with_name("lock").exists():
        yield
        return
    try:
        owned = lock(file.parent)
    except FieldlineError:
        raise FieldlineError(
            f"an agent is running on {file}: it will deliver by itself, or use `fieldline edge spool --export`"
        ) from None
    with owned:
        yield


async def _with_progress(copy: SpoolCopy, config: UplinkConfig) -> None:
    begin = copy.mark
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        task = progress.add_task("connecting", total=copy.next_seq - 1 - begin)

        def watch(uplink: Uplink) -> None:
            done = min(copy.mark, copy.next_seq - 1) - begin
            progress.update(task, completed=done, description="delivered" if done else uplink.state())

        await deliver(copy, config, f"fieldline-import-{copy.gateway}", SystemClock(), watch)
        progress.update(task, completed=copy.next_seq - 1 - begin, description="delivered")

"""The ingest worker's wiring, top to bottom: config -> ClickHouse -> fence and recovery -> trunk -> work."""

import asyncio
import contextlib
import logging
import secrets
import signal
import threading
from concurrent.futures import ThreadPoolExecutor

from clickhouse_connect.driver.exceptions import ClickHouseError

from broker_bridge.downlink import Downlink
from ingest.clickhouse.client import Client, connect
from ingest.config import IngestConfig
from ingest.insert import FencedError, Inserter, StoppedError, first_line
from ingest.ledger import Ledger
from ingest.worker import REFUSED_BYTES_MAX, Worker
from telemetry.backoff import Backoff
from telemetry.clock import SystemClock
from telemetry.errors import ConfigError, FieldlineError
from telemetry.wire import WIRE_BYTES_MAX

log = logging.getLogger(__name__)

UNKNOWN_TABLE, UNKNOWN_DATABASE = 60, 81
FENCED_STATUS = 3


def run(config: IngestConfig) -> int:
    """Work until SIGTERM or SIGINT (0), or until another worker takes over (3)."""
    return asyncio.run(_main(config))


async def _main(config: IngestConfig) -> int:
    stop = threading.Event()
    main = asyncio.current_task()
    assert main is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stop, main)
    thread = ThreadPoolExecutor(1, "ingest-writer")
    status = 0
    try:
        await _work(config, stop, thread)
    except* FencedError as group:
        log.error("%s", group.exceptions[0])
        status = FENCED_STATUS
    except* StoppedError:
        pass
    except* asyncio.CancelledError:
        if not stop.is_set():
            raise
    finally:
        stop.set()
        thread.shutdown(wait=True)
    log.info("Ingest has stopped.")
    return status


def _stop(stop: threading.Event, main: "asyncio.Task[object]") -> None:
    stop.set()
    main.cancel()


async def _work(config: IngestConfig, stop: threading.Event, thread: ThreadPoolExecutor) -> None:
    clock = SystemClock()
    name = secrets.token_hex(8)
    client = await _connect(config)
    inserter = Inserter(client, name, config.owned, stop)
    ledger = Ledger(inserter, clock)
    worker = Worker(
        inserter=inserter,
        ledger=ledger,
        partitions=config.partitions,
        commit=config.commit,
        clock=clock,
        thread=thread,
    )
    try:
        await _until_clickhouse_answers(worker)
        owned = f"{config.owned[0]}-{config.owned[-1]}" if len(config.owned) > 1 else f"{config.owned[0]}"
        log.info("Worker %s owns partitions %s of %d.", name, owned, config.partitions)
        options = config.trunk.options(
            f"fieldline-ingest-{owned}", packet_bytes_max=2 * WIRE_BYTES_MAX, keep_bytes=REFUSED_BYTES_MAX
        )

        async def check_fence() -> None:
            await asyncio.get_running_loop().run_in_executor(thread, ledger.check)

        downlink = Downlink(options, config.owned, name, worker.take, check_fence)
        await worker.run(downlink)
    finally:
        with contextlib.suppress(Exception):  # nothing depends on how a connection ends
            client.close()


async def _connect(config: IngestConfig) -> Client:
    pause = Backoff(0.2, 5.0)
    said = ""
    while True:
        try:
            return await asyncio.to_thread(connect, config.clickhouse_url)
        except ConfigError:
            raise
        except FieldlineError as error:
            if str(error) != said:
                log.warning("%s Trying again.", error)
            said = str(error)
        await asyncio.sleep(pause.next_s())


async def _until_clickhouse_answers(worker: Worker) -> None:
    pause = Backoff(0.2, 5.0)
    while True:
        try:
            return await worker.take_over()
        except ClickHouseError as error:
            if getattr(error, "code", None) in (UNKNOWN_TABLE, UNKNOWN_DATABASE):
                raise FieldlineError(
                    "ClickHouse has no Fieldline tables yet: run `fieldline analytics migrate` first."
                ) from error
            log.warning("ClickHouse does not answer, trying again: %s", first_line(error))
        await asyncio.sleep(pause.next_s())

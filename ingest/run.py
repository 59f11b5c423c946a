"""The ingest worker's wiring, top to bottom: config -> ClickHouse -> fence and recovery -> trunk -> work."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import threading
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from clickhouse_connect.driver.exceptions import ClickHouseError

from broker_bridge.contract import partition_of
from broker_bridge.downlink import Downlink
from ingest.clickhouse.client import Client, connect
from ingest.config import IngestConfig
from ingest.insert import FencedError, Inserter, StoppedError, first_line
from ingest.ledger import Ledger
from ingest.worker import REFUSED_BYTES_MAX, Threads, Worker
from telemetry.backoff import Backoff
from telemetry.clock import SystemClock
from telemetry.errors import ConfigError, FieldlineError
from telemetry.wire import WIRE_BYTES_MAX

log = logging.getLogger(__name__)

UNKNOWN_TABLE, UNKNOWN_DATABASE = 60, 81
FENCED_STATUS = 3
STOP_S_MAX = 5.0
"""How long a stop waits for the insert that runs."""

T = TypeVar("T")


def run(config: IngestConfig) -> int:
    """Work until SIGTERM or SIGINT (0), or until another worker takes over (3).

    Raises FieldlineError for what the worker cannot work with.
    """
    return asyncio.run(_main(config))


async def _main(config: IngestConfig) -> int:
    stop = threading.Event()
    main = asyncio.current_task()
    assert main is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stop, main)
    stages = [ThreadPoolExecutor(1, f"ingest-{stage}") for stage in ("prepare", "write", "settle")]
    status, failure = 0, None
    try:
        await _work(config, stop, stages)
    except* FencedError as group:
        log.error("%s", _first(group))
        status = FENCED_STATUS
    except* StoppedError:
        pass
    except* FieldlineError as group:
        status, failure = 1, _first(group)
    except* asyncio.CancelledError:
        if not stop.is_set():
            raise
    finally:
        stop.set()
        await _end(stages, status)
    if failure is not None:
        raise failure
    log.info("Ingest has stopped.")
    return status


def _first(group: BaseExceptionGroup[FieldlineError]) -> FieldlineError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first


def _stop(stop: threading.Event, main: "asyncio.Task[object]") -> None:
    stop.set()
    main.cancel()


async def _end(stages: Sequence[ThreadPoolExecutor], status: int) -> None:
    """Let the statements that run finish. A ClickHouse that hangs is not waited for: a successor looks it up."""
    last = [asyncio.wrap_future(thread.submit(lambda: None)) for thread in stages]
    for thread in stages:
        thread.shutdown(wait=False)
    if (await asyncio.wait(last, timeout=STOP_S_MAX))[1]:
        log.warning("Ingest has stopped without an answer from ClickHouse; what is stored will be looked up.")
        os._exit(status)  # the interpreter would wait for the thread


async def _work(config: IngestConfig, stop: threading.Event, stages: Sequence[ThreadPoolExecutor]) -> None:
    clock = SystemClock()
    name = secrets.token_hex(8)
    owned = f"{config.owned[0]}-{config.owned[-1]}" if len(config.owned) > 1 else f"{config.owned[0]}"
    options = config.trunk.options(  # before anything is taken over from a worker whose config is right
        f"fieldline-ingest-{owned}", packet_bytes_max=2 * WIRE_BYTES_MAX, keep_bytes=REFUSED_BYTES_MAX
    )
    threads = Threads(*stages)
    clients = [await _connect(config, thread) for thread in stages]
    intents, rows, marks = (Inserter(client, name, config.owned, stop) for client in clients)
    own = set(config.owned)
    ledger = Ledger(marks, clock, intents, owns=lambda gateway: partition_of(gateway, config.partitions) in own)
    worker = Worker(
        inserter=rows,
        ledger=ledger,
        partitions=config.partitions,
        commit=config.commit,
        clock=clock,
        threads=threads,
    )
    try:
        await _when_clickhouse_answers(worker.take_over)
        log.info("Worker %s owns partitions %s of %d.", name, owned, config.partitions)

        async def check_fence() -> None:
            loop = asyncio.get_running_loop()
            await _when_clickhouse_answers(lambda: loop.run_in_executor(threads.settle, ledger.check))

        downlink = Downlink(options, config.owned, name, worker.take, check_fence)
        await worker.run(downlink)
    finally:
        for client in clients:
            with contextlib.suppress(Exception):  # nothing depends on how a connection ends
                client.close()


async def _connect(config: IngestConfig, thread: ThreadPoolExecutor) -> Client:
    pause = Backoff(0.2, 5.0)
    said = ""
    while True:
        try:
            return await asyncio.get_running_loop().run_in_executor(thread, connect, config.clickhouse_url)
        except ConfigError:
            raise
        except FieldlineError as error:
            if str(error) != said:
                log.warning("%s Trying again.", error)
            said = str(error)
        await asyncio.sleep(pause.next_s())


async def _when_clickhouse_answers(call: Callable[[], Awaitable[T]]) -> T:
    """The call's result; while ClickHouse cannot give it, say so once and call again."""
    pause = Backoff(0.2, 5.0)
    said = ""
    while True:
        try:
            result = await call()
        except ClickHouseError as error:
            trouble = _trouble(error)
            if trouble != said:
                log.warning("%s", trouble)
            said = trouble
        else:
            if said:
                log.info("ClickHouse answers again.")
            return result
        await asyncio.sleep(pause.next_s())


def _trouble(error: ClickHouseError) -> str:
    if getattr(error, "code", None) in (UNKNOWN_TABLE, UNKNOWN_DATABASE):
        return "ClickHouse has no Fieldline tables yet. Run `fieldline analytics migrate`. Trying again."
    return f"ClickHouse does not answer, trying again: {first_line(error)}"

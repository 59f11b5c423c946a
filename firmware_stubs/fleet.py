"""A fleet of devices in one process: a replay of recorded turbines, or synthetic devices, over MQTT and CoAP.

Devices that speak MQTT share a few connections; those that speak CoAP share a few UDP ports; a device always
uses the same one. At the end (time over, recording over, Ctrl-C) the fleet sends nothing new and waits for
what is outstanding. What fails (a recording, the report's disk) ends the whole fleet that way, then is raised.
"""

import asyncio
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from firmware_stubs import replay, synthetic
from firmware_stubs.coap_lane import CoapLanes
from firmware_stubs.counts import Book, Counts
from firmware_stubs.message import Message
from firmware_stubs.mqtt_lane import MqttLane

LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """mqtt, coap: (host, port), at least one. csv: replay this file at `speed` (seconds of recorded time per
    second, 0: as fast as messages are acknowledged); else `devices` synthetic ones at `rate_hz` each.
    coap_share: which share of the devices speaks CoAP. poison: which share of the messages is broken.
    """

    mqtt: tuple[str, int] | None = None
    coap: tuple[str, int] | None = None
    csv: Path | None = None
    speed: float = 600.0
    devices: int = 100
    rate_hz: float = 1.0
    metrics: int = 4
    coap_share: float = 0.25
    connections: int = 4
    inflight_max: int = 100
    seconds: float | None = None
    linger_s: float = 60.0
    poison: float = 0.0
    seed: int = 1
    report: Path | None = None
    journal: Path | None = None


def run(options: FleetOptions, stop: threading.Event) -> Counts:
    """Run the fleet to its end.

    Raises OSError, and ValueError with a sentence, for a bad recording and for a report that cannot be written.
    """
    book = Book(options.journal)
    over_mqtt, over_coap = _divide(options)
    book.open()
    failures: list[Exception] = []
    try:
        _tell(options, book, end="\r")  # a report that cannot be written is said before anything is sent
        started_s = time.monotonic()
        lanes = [
            threading.Thread(target=_guarded, args=(work, failures, stop), name=f"lane-{number}")
            for number, work in enumerate(_works(options, book, over_mqtt, over_coap, stop, started_s))
        ]
        for lane in lanes:
            lane.start()
        try:
            _look_on(options, book, lanes, stop, started_s)
        finally:
            stop.set()
            for lane in lanes:
                lane.join()
    finally:
        book.close()
    if failures:
        raise failures[0]
    return book.counts


def _works(
    options: FleetOptions,
    book: Book,
    over_mqtt: list[str],
    over_coap: list[str],
    stop: threading.Event,
    started_s: float,
) -> list[Callable[[], None]]:
    """What the lanes do: one per MQTT connection, and one for all CoAP ports."""
    works: list[Callable[[], None]] = []
    for number, names in enumerate(_spread(over_mqtt, options.connections)):
        assert options.mqtt is not None
        lane = MqttLane(
            options.mqtt,
            f"fleet-{options.seed}-{number}",
            book,
            stop,
            inflight_max=options.inflight_max,
            linger_s=options.linger_s,
        )
        works.append(partial(lane.run, _messages(options, names, number), started_s))
    if options.coap is not None and over_coap:
        ports = CoapLanes(options.coap, book, stop, max(options.connections, 1), options.linger_s)
        source = _messages(options, over_coap, len(works))
        works.append(lambda: asyncio.run(ports.run(source, started_s)))
    return works


def _guarded(work: Callable[[], None], failures: list[Exception], stop: threading.Event) -> None:
    """A lane: one that fails stops the others."""
    try:
        work()
    except Exception as error:  # noqa: BLE001 - a thread's outer edge; it is raised again at the fleet's end
        failures.append(error)
        stop.set()


def _divide(options: FleetOptions) -> tuple[list[str], list[str]]:
    """Which devices speak MQTT and which CoAP: the last ones by name."""
    if options.mqtt is None and options.coap is None:
        raise ValueError("give the fleet somewhere to send to: --mqtt HOST:PORT, --coap HOST:PORT, or both")
    names = replay.devices(options.csv) if options.csv else synthetic.device_names(options.devices)
    if options.mqtt is None:
        return [], names
    if options.coap is None:
        return names, []
    cut = len(names) - round(len(names) * options.coap_share)
    return names[:cut], names[cut:]


def _spread(names: Sequence[str], connections: int) -> list[list[str]]:
    count = min(max(connections, 1), len(names))
    return [list(names[number::count]) for number in range(count)]


def _messages(options: FleetOptions, names: list[str], lane: int) -> Iterator[Message]:
    if options.csv is not None:
        source = replay.messages(options.csv, set(names), options.speed)
    else:
        source = synthetic.messages(names, options.rate_hz, options.metrics, options.seed + lane)
    return synthetic.poisoned(source, options.poison, options.seed + lane) if options.poison else source


def _look_on(
    options: FleetOptions, book: Book, lanes: list[threading.Thread], stop: threading.Event, started_s: float
) -> None:
    """Write the report and the status line until all lanes have ended."""
    while any(lane.is_alive() for lane in lanes):
        if options.seconds is not None and time.monotonic() - started_s >= options.seconds:
            stop.set()
        _tell(options, book, end="\r")
        lanes[0].join(LOOK_EVERY_S / 5)
    _tell(options, book, end="\n")


def _tell(options: FleetOptions, book: Book, end: str) -> None:
    if options.report is not None:
        book.write_report(options.report)
    if sys.stdout.isatty():
        counts = book.counts
        line = f"{counts.messages_acked:,} messages, {counts.readings_acked:,} readings acknowledged"
        print(f"\033[2K{line}", end=end, flush=True)


def main(options: FleetOptions) -> int:
    """For the command line: run until the end or Ctrl-C; 1 when messages were left without an answer."""
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        counts = run(options, stop)
    except (OSError, ValueError) as error:
        print(f"fieldline simulate: {_sentence(error)}", file=sys.stderr)
        return 2
    print(" ".join(f"{name}={value}" for name, value in asdict(counts).items()))
    if counts.unacked:
        where = " and ".join(f"{host}:{port}" for host, port in filter(None, (options.mqtt, options.coap)))
        print(
            f"fieldline simulate: {counts.unacked} messages were left without an answer. Is {where} running?",
            file=sys.stderr,
        )
    return 1 if counts.unacked else 0


def _sentence(error: OSError | ValueError) -> str:
    """An OSError without its number."""
    if isinstance(error, OSError) and error.strerror:
        return f"cannot use {error.filename}: {error.strerror}" if error.filename else error.strerror
    return str(error)

"""The edge agent's wiring, top to bottom: collect -> decode -> spool -> uplink, and acknowledgements back.

Each collector delivers to the group commit; each commit wakes the uplink. The agent starts whatever is
missing (network, brokers, cloud) and says what is wrong; only its own config and its own spool directory can
keep it from starting.
"""

import asyncio
import logging
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from broker_bridge.uplink import Uplink
from edge_agent import quarantine
from edge_agent.boot import Boot, kernel_boot_id
from edge_agent.collect import Collector, Publisher
from edge_agent.commit import GroupCommit
from edge_agent.config import Coap, GatewayConfig
from edge_agent.decode import Decoder
from edge_agent.health import Health
from edge_agent.spool import Spool, open_spool
from edge_agent.spool_copy import Known
from telemetry.clock import Clock, SystemClock
from telemetry.errors import ConfigError, SpoolCorruptError

if TYPE_CHECKING:
    from edge_agent.collect.coap_oscore import Oscore
    from edge_agent.collect.coap_secure import Secure

log = logging.getLogger(__name__)

MQTT_HEAD_BYTES_MAX = 65_535 + 16
"""What an MQTT packet may hold beside its payload: topic and header."""


def run(config: GatewayConfig) -> int:
    """Collect until SIGTERM or SIGINT. Raises FieldlineError for what the user must change."""
    return asyncio.run(_main(config))


async def _main(config: GatewayConfig) -> int:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    while not stopping.is_set():
        await _with_spool(config, stopping)
    log.info("The agent has stopped; the spool keeps what was not confirmed.")
    return 0


def _first(group: BaseExceptionGroup[SpoolCorruptError]) -> SpoolCorruptError:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


async def _with_spool(config: GatewayConfig, stopping: asyncio.Event) -> None:
    """Work on one spool until told to stop, or until its file turns out to be damaged and is moved aside."""
    spool = open_spool(config.spool, config.gateway, config.collect.series_max)
    # One thread for the spool: commits, reads and trims take their turns.
    thread = ThreadPoolExecutor(1, "spool")
    damage = None
    try:
        held = spool.status()
        where = f"{config.spool.path}, epoch {held.epoch}"
        log.info("Gateway %s, spool %s: %d records waiting.", config.gateway, where, held.records)
        await _work(config, spool, thread, SystemClock(), stopping)
    except* SpoolCorruptError as group:
        damage = _first(group)
    finally:
        thread.shutdown(wait=True)
        spool.close()
    if damage is not None:
        quarantine.move_aside(
            config.spool.path, damage, Known(spool.gateway, spool.epoch, spool.mark, spool.next_seq - 1)
        )


async def _work(
    config: GatewayConfig, spool: Spool, thread: ThreadPoolExecutor, clock: Clock, stopping: asyncio.Event
) -> None:
    spool.boot = Boot(clock, waits=config.time.wait_for_clock)
    decoder = Decoder(config, spool.series_id, spool.births(), spool.windows())
    commit = GroupCommit(spool, decoder, config.collect, clock, thread)
    collectors = make_collectors(config, clock, spool.knows)
    for collector in collectors.values():
        if isinstance(collector, Publisher):
            commit.publish = collector.publish
    health = Health(config.spool.path, clock, dict(collectors), lambda: commit.trouble, lambda: commit.counts.ignored)
    uplink = Uplink(
        source=spool,
        gateway=config.gateway,
        partitions=config.uplink.partitions,
        options=config.uplink.options(f"fieldline-uplink-{config.gateway}"),
        limits=config.uplink.limits,
        clock=clock,
        thread=thread,
        status=lambda: health.status(spool),
    )
    commit.on_commit = uplink.wake
    health.parts["uplink"] = uplink
    damaged = quarantine.Quarantine(config, clock)
    if damaged:
        health.parts["damaged spool"] = damaged
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(commit.run(), name="commit")
            tasks.create_task(uplink.run(), name="uplink")
            for name, collector in collectors.items():
                tasks.create_task(collector.run(commit.deliver), name=f"collect-{name}")
            tasks.create_task(damaged.run(), name="damaged")
            tasks.create_task(health.run(), name="health")
            await stopping.wait()
            raise _Stopping  # noqa: TRY301 - how a TaskGroup is told to cancel its tasks
    except* _Stopping:
        pass


class _Stopping(Exception):  # noqa: N818 - not an error
    pass


def make_collectors(config: GatewayConfig, clock: Clock, knows: Callable[[int], bool]) -> dict[str, Collector]:
    """The collectors that the config switches on. A protocol is imported only when it is used.

    knows: whether the spool has committed a message with this key.
    """
    collectors: dict[str, Collector] = {}
    if config.mqtt is not None:
        from edge_agent.collect.mqtt import MqttCollector

        room = MQTT_HEAD_BYTES_MAX + config.collect.payload_bytes_max
        collectors["mqtt"] = MqttCollector(
            config.mqtt,
            config.gateway,
            clock,
            packet_bytes_max=room,
            keep_bytes=config.collect.dead_letter_bytes_max,
        )
    if config.coap is not None and config.coap.serves:
        from edge_agent.collect.coap import CoapCollector

        topics = [mapping.topic for mapping in config.mappings]
        collectors["coap"] = CoapCollector(
            config.coap,
            clock,
            config.collect.payload_bytes_max,
            topics,
            knows,
            kernel_boot_id(),
            _secure(config.coap),
            _oscore(config, clock, knows),
        )
    if config.coap is not None and config.coap.resources:
        from edge_agent.collect.coap_resources import CoapResources

        collectors["coap-resources"] = CoapResources(config.coap.resources, clock, config.collect.payload_bytes_max)
    return collectors


def _secure(config: Coap) -> "Secure | None":
    """The server's half with DTLS, if it is switched on. Raises ConfigError."""
    if config.dtls is None:
        return None
    try:
        from edge_agent.collect.coap_secure import Secure
    except ImportError as error:
        raise ConfigError(
            f"coap.dtls needs pyOpenSSL ({error}). Install it with: pip install 'fieldline[dtls]'"
        ) from error
    return Secure(config.dtls, config.bind)


def _oscore(config: GatewayConfig, clock: Clock, knows: Callable[[int], bool]) -> "Oscore | None":
    """What opens OSCORE's messages, if it is switched on. Raises ConfigError."""
    if config.coap is None or config.coap.oscore is None:
        return None
    try:
        from edge_agent.collect.coap_oscore import Oscore
    except ImportError as error:
        raise ConfigError(
            f"coap.oscore needs cryptography ({error}). Install it with: pip install 'fieldline[oscore]'"
        ) from error
    from edge_agent.collect.coap_numbers import Numbers
    from edge_agent.collect.oscore_file import load_devices

    oscore = config.coap.oscore
    numbers = Numbers(config.spool.path, clock.now_ms())
    return Oscore(load_devices(oscore.keys_file), numbers, knows, is_required=oscore.required)

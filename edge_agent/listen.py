"""`fieldline edge listen`: what arrives at the device broker, live, and what becomes of it.

It is a client of its own beside the running agent: a client id that nobody has, a session that ends with it, QoS 0,
and the topics of a shared subscription without their group, or it would get messages in the agent's place. It opens
no spool. Only a broker that takes the user name for the client id (Mosquitto's `use_username_as_clientid`) would
mistake it for the agent, and end the agent's session.

The broker is always read; a terminal that is slower loses messages, and is told how many.
Limits: WAITING_MAX messages of WAITING_BYTES_MAX together wait to be shown, READINGS_MAX readings of each are.
"""

import asyncio
import secrets
import signal
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from broker_bridge.mqtt.client import Connection, Messages
from edge_agent.check import unshared
from edge_agent.collect.mqtt import opened
from edge_agent.config import GatewayConfig, Mqtt
from edge_agent.preview import Fate, Preview, console
from edge_agent.run import MQTT_HEAD_BYTES_MAX
from telemetry.clock import SystemClock
from telemetry.errors import FieldlineError

WAITING_MAX = 1000
WAITING_BYTES_MAX = 16 * 1024 * 1024
READINGS_MAX = 50
TOPIC_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Options:
    """topics: instead of those of the config, if any. seconds, messages: after which it ends, None for never."""

    topics: tuple[str, ...] = ()
    seconds: float | None = None
    messages: int | None = None


class Message(NamedTuple):
    """As it came. bytes: of the whole payload, if that is only its beginning."""

    at_ms: int
    topic: str
    payload: bytes
    bytes: int | None
    is_retained: bool


class Inbox:
    """Messages that wait to be shown."""

    def __init__(self) -> None:
        self.waiting: list[Message] = []
        self.bytes = 0
        self.missed = 0
        self.ended: str | None = None  # the reason, empty if the user wanted it
        self.changed = asyncio.Event()

    def add(self, messages: Messages, _connection: Connection) -> None:
        """Take the messages of one socket read, as far as there is room."""
        now_ms = SystemClock().now_ms()
        for at, (topic, payload) in enumerate(zip(messages.topics, messages.payloads, strict=True)):
            if len(self.waiting) >= WAITING_MAX or self.bytes > WAITING_BYTES_MAX:
                self.missed += len(messages) - at
                break
            size, is_retained = messages.oversized.get(at), at in messages.retained
            self.waiting.append(Message(now_ms, topic, payload, size, is_retained))
            self.bytes += len(payload)
        self.changed.set()

    def end(self, reason: str = "") -> None:
        """No more will come."""
        self.ended = reason
        self.changed.set()

    def take(self) -> tuple[list[Message], int]:
        """What waits, and how many were missed behind that; then nothing waits."""
        taken = self.waiting, self.missed
        self.waiting, self.missed, self.bytes = [], 0, 0
        self.changed.clear()
        return taken


class Screen:
    """Prints messages; counts them."""

    def __init__(self, config: GatewayConfig, messages_max: int | None, out: Console) -> None:
        self._preview = Preview(config)
        self._messages_max = messages_max
        self._out = out
        self.messages = self.readings = self.dead = self.missed = 0

    @property
    def is_full(self) -> bool:
        """Whether it has shown as many as it was to show."""
        return self._messages_max is not None and self.messages >= self._messages_max

    def show(self, messages: list[Message], missed: int) -> None:
        """Print some messages, and how many are missing behind them."""
        for message in messages:
            if self.is_full:
                return
            fate = self._preview(message.topic, message.payload, message.at_ms, message.bytes)
            self.messages += 1
            self.readings += len(fate.readings)
            self.dead += fate.reason is not None
            self._out.print(told(message, fate), soft_wrap=True)
        if missed:
            self.missed += missed
            self._out.print(f"({missed} messages more came than could be shown)", soft_wrap=True)

    def summary(self) -> str:
        """What there was, in a sentence."""
        missed = f" {self.missed} more came than could be shown." if self.missed else ""
        return f"{self.messages} messages: {self.readings} readings, {self.dead} dead letters.{missed}"


def told(message: Message, fate: Fate) -> Text:
    """A message and what becomes of it, as lines."""
    time = datetime.fromtimestamp(message.at_ms / 1000, UTC).strftime("%H:%M:%S.%f")[:-3]
    topic = message.topic if message.topic.isprintable() else repr(message.topic)
    size = len(message.payload) if message.bytes is None else message.bytes
    text = Text(f"{time}  ")
    text.append(topic[:TOPIC_CHARS_MAX], "bold")
    text.append(f"  {size} bytes{', retained' if message.is_retained else ''}")
    for device, metric, value, unit, when, quality, tagged in fate.readings[:READINGS_MAX]:
        text.append(
            f"\n    {device}  {metric} = {value} {unit}".rstrip() + f"  at {when}, {quality}  {tagged}".rstrip()
        )
    if len(fate.readings) > READINGS_MAX:
        text.append(f"\n    and {len(fate.readings) - READINGS_MAX} readings more")
    if fate.reason is not None:
        return text.append(f"\n    dead letter: {fate.reason}\n    {message.payload[:100]!r}", "red")
    return text.append(f"\n    {fate.silence}") if fate.silence else text


def run(config: GatewayConfig, options: Options) -> None:
    """Listen until told to stop. Raises FieldlineError for a broker that is away, goes away, or refuses us."""
    if config.mqtt is None:
        raise FieldlineError("there is no section [mqtt], so there is no device broker to listen to")
    if any(topic.startswith("$share/") for topic in options.topics):
        raise FieldlineError(
            "a shared subscription would take messages from the agent; give --topic without $share/GROUP/"
        )
    topics = options.topics or tuple(dict.fromkeys(map(unshared, config.mqtt.topics)))
    asyncio.run(_listen(config, config.mqtt, topics, options))


async def _listen(config: GatewayConfig, mqtt: Mqtt, topics: tuple[str, ...], options: Options) -> None:
    inbox, screen = Inbox(), Screen(config, options.messages, console())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, inbox.end)
    client = mqtt.options(
        f"fieldline-listen-{secrets.token_hex(3)}",  # 23 characters are what every broker takes (MQTT 3.1.1, 3.1.3.1)
        packet_bytes_max=MQTT_HEAD_BYTES_MAX + config.collect.payload_bytes_max,
        keep_bytes=config.collect.dead_letter_bytes_max,
    )
    connection = await opened(client, mqtt.version, inbox.add)
    try:
        await connection.subscribe(topics, qos=0)
        print(f"Listening to {', '.join(topics)} at {mqtt.host}:{mqtt.port}; Ctrl-C ends it.", flush=True)
        closed = asyncio.ensure_future(connection.closed)
        closed.add_done_callback(lambda lost: None if lost.cancelled() else inbox.end(lost.result()))
        if options.seconds is not None:
            loop.call_later(options.seconds, inbox.end)
        while inbox.ended is None and not screen.is_full:
            await inbox.changed.wait()
            await asyncio.to_thread(screen.show, *inbox.take())  # a terminal may block, the broker must not wait for it
        reason = inbox.ended
    finally:
        await connection.close()
    print(screen.summary())
    if reason:
        raise FieldlineError(reason)

"""`fieldline edge check`: what is wrong with a config beyond its syntax, before the agent runs with it.

`check` looks at the config and at the files it names; it connects to nothing. `try_message` decodes one
payload as the running agent would, and touches no spool.
"""

import shutil
from datetime import UTC, datetime
from pathlib import Path

from broker_bridge.config import Broker
from edge_agent.config import GatewayConfig, load
from edge_agent.decode import Decoder
from edge_agent.mapping import COAP_MAPPING, matches, pattern
from edge_agent.sparkplug.room import NAMESPACE
from telemetry.clock import SystemClock
from telemetry.columns import TIME_FROM_GATEWAY, Columns, Series
from telemetry.delivery import Chunk
from telemetry.errors import ConfigError


def check(path: Path) -> list[str]:
    """What is wrong with a config file, a sentence per finding; empty when nothing is."""
    try:
        config = load(path)
    except ConfigError as error:
        return str(error).splitlines()
    findings = [*_topics(config), *_mappings(config), *_brokers(config), *_spool(config)]
    return [f"{path}: {finding}" for finding in findings]


def _topics(config: GatewayConfig) -> list[str]:
    """Subscriptions whose messages no mapping takes."""
    patterns = [pattern(mapping.topic) for mapping in (*config.mappings, COAP_MAPPING)]
    findings = []
    topics = config.mqtt.topics if config.mqtt else ()
    if config.sparkplug and not any(_segments(topic)[0] in (NAMESPACE, "+", "#") for topic in topics):
        findings.append("sparkplug: no message comes to it. Add 'spBv1.0/#' to mqtt.topics or remove the section.")
    for topic in topics:
        segments = _segments(topic)
        if config.sparkplug is not None and segments[0] == NAMESPACE:
            continue
        if any(_covers(parts, segments) for parts in patterns):
            continue
        some = any(_meets(parts, segments) for parts in patterns)
        what = "some messages that no mapping matches" if some else "messages, and no mapping matches them"
        findings.append(
            f"mqtt.topics: {topic!r} brings {what}; they become dead letters. Add a mapping or narrow the topic."
        )
    return findings


def _mappings(config: GatewayConfig) -> list[str]:
    """Mappings that no message reaches."""
    topics = [_segments(topic) for topic in config.mqtt.topics] if config.mqtt else []
    if config.coap:
        topics.append(["telemetry", "+"])
    findings = []
    for index, mapping in enumerate(config.mappings):
        parts = pattern(mapping.topic)
        earlier = [other.topic for other in config.mappings[:index] if _covers(pattern(other.topic), parts)]
        if earlier:
            findings.append(
                f"mappings.{index}.topic: {mapping.topic!r} is never reached, {earlier[0]!r} comes first. "
                "Move it up or remove it."
            )
        elif "topic" in mapping.model_fields_set and not any(_meets(parts, topic) for topic in topics):
            findings.append(
                f"mappings.{index}.topic: no message comes to {mapping.topic!r}. "
                "Add a topic to mqtt.topics or remove the mapping."
            )
    return findings


def _segments(topic: str) -> list[str]:
    """A topic filter's segments, without what makes it a shared subscription."""
    segments = topic.split("/")
    return segments[2:] if segments[0] == "$share" else segments


def _covers(parts: list[str], topics: list[str]) -> bool:
    """Whether a mapping matches every topic of a filter or of another mapping."""
    any_text = "\0"  # stands in no pattern: only + and {device} match it
    return "#" not in topics and matches(parts, [any_text if t in ("+", "{device}") else t for t in topics])


def _meets(parts: list[str], topics: list[str]) -> bool:
    """Whether a mapping and a filter have a topic in common."""
    if topics[-1] == "#":
        topics = topics[:-1] + ["+"] * (len(parts) - len(topics) + 1)
    same = zip(parts, topics, strict=False)
    return len(parts) == len(topics) and all(t in ("+", p) or p in ("+", "{device}") for p, t in same)


def _brokers(config: GatewayConfig) -> list[str]:
    """Passwords and TLS files that cannot be read."""
    sections: dict[str, Broker | None] = {"mqtt": config.mqtt, "uplink": config.uplink}
    findings = []
    for name, section in sections.items():
        if section is not None:
            try:
                section.options("check")
            except ConfigError as error:
                findings.append(f"{name}: {error}")
    return findings


def _spool(config: GatewayConfig) -> list[str]:
    """A spool that has no place to be."""
    spool = config.spool
    place = next(folder for folder in (spool.path, *spool.path.absolute().parents) if folder.exists())
    if not place.is_dir():
        return [f"spool.path: {place} is not a directory. Remove it or set another spool.path."]
    free = shutil.disk_usage(place).free
    if free < spool.free_bytes_min:
        finding = (
            f"spool.free_bytes_min: the file system of {place} has {free} bytes free, the spool leaves "
            f"{spool.free_bytes_min} alone and so can take nothing. Make room or lower it."
        )
        return [finding]
    return []


def try_message(config: GatewayConfig, topic: str, payload: bytes) -> list[str] | str:
    """What would become of a message: its readings, a line each, or the reason of its refusal."""
    columns, names = Decoder.alone(config)(Chunk(SystemClock().now_ms(), [topic], [payload], [0]))
    if columns.dead:
        return columns.dead[0].reason
    return [_line(columns, at, names[id_]) for at, id_ in enumerate(columns.series)]


def _line(columns: Columns, at: int, series: Series) -> str:
    """Device, metric, value with its unit, time."""
    value = repr(columns.texts[at]) if at in columns.texts else f"{columns.value[at]:.15g}"
    when = datetime.fromtimestamp(columns.measured_at[at] / 1000, UTC).isoformat(timespec="milliseconds")
    by = " (its arrival)" if columns.quality[at] == TIME_FROM_GATEWAY else ""
    return f"{series.device}  {series.metric} = {value} {series.unit}".rstrip() + f"  at {when}{by}"

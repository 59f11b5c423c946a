"""`fieldline edge check`: what is wrong with a config beyond its syntax, before the agent runs with it.

`check` looks at the config and at the files it names; it connects to nothing. `edge_agent.preview` shows what would
become of a message.
"""

import shutil
from pathlib import Path

from broker_bridge.config import Broker
from edge_agent.collect.oscore_file import load_devices
from edge_agent.collect.psk_file import load_keys
from edge_agent.config import GatewayConfig, is_place, load
from edge_agent.mapping import COAP_MAPPING, matches, pattern
from edge_agent.sparkplug.room import NAMESPACE
from telemetry.errors import ConfigError


def check(path: Path) -> list[str]:
    """What is wrong with a config file, a sentence per finding; empty when nothing is."""
    try:
        config = load(path)
    except ConfigError as error:
        return str(error).splitlines()
    findings = [*_topics(config), *_mappings(config), *_secrets(config), *_spool(config)]
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
    findings += [
        f"coap.resources: no mapping matches {resource.topic!r}, so what {resource.uri} says becomes dead letters. "
        "Add a mapping or change the topic."
        for resource in (config.coap.resources if config.coap else ())
        if not any(matches(parts, resource.topic.split("/")) for parts in patterns)
    ]
    return findings


def _mappings(config: GatewayConfig) -> list[str]:
    """Mappings that no message reaches."""
    topics = _collected(config)
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


def unshared(topic: str) -> str:
    """A topic filter without what makes it a shared subscription."""
    return "/".join(_segments(topic))


def _segments(topic: str) -> list[str]:
    """A topic filter's segments, without what makes it a shared subscription."""
    segments = topic.split("/")
    return segments[2:] if segments[0] == "$share" else segments


def _covers(parts: list[str], topics: list[str]) -> bool:
    """Whether a mapping matches every topic of a filter or of another mapping."""
    any_text = "\0"  # stands in no pattern: only places match it
    if topics[-1] == "#":  # the shortest of its topics is what comes before; all others are that and a rest
        topics = topics[:-1]
        if parts[-1] != "#":
            return False
    return matches(parts, [any_text if is_place(t) else t for t in topics])


def _meets(parts: list[str], topics: list[str]) -> bool:
    """Whether a mapping and a filter have a topic in common."""
    if topics[-1] == parts[-1] == "#":
        common = min(len(topics), len(parts)) - 1
        topics, parts = topics[:common], parts[:common]
    elif topics[-1] == "#":
        topics = topics[:-1] + ["+"] * (len(parts) - len(topics) + 1)
    elif parts[-1] == "#":
        parts = parts[:-1] + ["+"] * (len(topics) - len(parts) + 1)
    same = zip(parts, topics, strict=False)
    return len(parts) == len(topics) and all(t in ("+", p) or is_place(p) for p, t in same)


def _secrets(config: GatewayConfig) -> list[str]:
    """Passwords, keys and TLS files that cannot be read."""
    sections: dict[str, Broker | None] = {"mqtt": config.mqtt, "uplink": config.uplink}
    findings = []
    for name, section in sections.items():
        if section is not None:
            try:
                section.options("check")
            except ConfigError as error:
                findings.append(f"{name}: {error}")
    if config.coap and config.coap.dtls:
        try:
            load_keys(config.coap.dtls.psk_file)
        except ConfigError as error:
            findings.append(f"coap.dtls: {error}")
    if config.coap and config.coap.oscore:
        try:
            load_devices(config.coap.oscore.keys_file)
        except ConfigError as error:
            findings.append(f"coap.oscore: {error}")
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


def _collected(config: GatewayConfig) -> list[list[str]]:
    """The topic filters of what comes in, as segments."""
    topics = [_segments(topic) for topic in config.mqtt.topics] if config.mqtt else []
    if config.coap:
        topics += [["telemetry", "#"]] if config.coap.serves else []
        topics += [resource.topic.split("/") for resource in config.coap.resources]
    return topics


def is_collected(config: GatewayConfig, topic: str) -> bool:
    """Whether a subscription brings messages of a topic, or a CoAP device can post to it."""
    return any(_meets(topic.split("/"), segments) for segments in _collected(config))

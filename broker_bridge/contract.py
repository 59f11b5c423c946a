"""The trunk's contract: topics, partitions and the small JSON messages. Both ends import this file.

gateway -> cloud
  fieldline/1/{partition}/batch/{gateway}    a batch (telemetry.wire), QoS 1
  fieldline/1/{partition}/hello/{gateway}    "what do you hold of my epoch?", answered by a receipt
  fieldline/1/{partition}/status/{gateway}   what the agent says of itself, every few seconds
cloud -> gateway
  fieldline/1/{partition}/worker             a worker has just taken this partition over
  fieldline/1/receipt/{gateway}              what is committed; cumulative, may come at any time

MQTT's own acknowledgements on these topics prove nothing: only a receipt frees records at the gateway.

Limits: a hello, receipt or status has at most MESSAGE_BYTES_MAX; gateways and epochs are names (is_name).
"""

import json
import re
import zlib
from dataclasses import dataclass, field
from typing import Any

from telemetry.errors import WireError
from telemetry.ranges import SeqRanges

ROOT = "fieldline/1"
AHEAD_RANGES_MAX = 64
MESSAGE_BYTES_MAX = 64 * 1024
REFUSED_CHARS_MAX = 500
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
_UP_TOPIC = re.compile(rf"{ROOT}/([0-9]{{1,9}})/([^/]*)/([^/]*)")


def is_name(text: str) -> bool:
    """Whether it can be a gateway or an epoch (as telemetry.config.Name has it)."""
    return _NAME.fullmatch(text) is not None


def partition_of(gateway: str, partitions: int) -> int:
    """The trunk's shard of a gateway."""
    return zlib.crc32(gateway.encode()) % partitions


def up_topic(partition: int, kind: str, gateway: str) -> str:
    """kind: batch, hello or status."""
    return f"{ROOT}/{partition}/{kind}/{gateway}"


def up_filter(partition: int) -> str:
    """What a worker subscribes to for each partition that it owns."""
    return f"{ROOT}/{partition}/+/+"


def worker_topic(partition: int) -> str:
    return f"{ROOT}/{partition}/worker"


def receipt_topic(gateway: str) -> str:
    return f"{ROOT}/receipt/{gateway}"


def split_up_topic(topic: str) -> tuple[int, str, str]:
    """(partition, kind, gateway) of an up topic. Raises WireError."""
    parts = _UP_TOPIC.fullmatch(topic)
    if parts is None:
        raise WireError(f"topic {topic[:200]!r} is not of the trunk")
    return int(parts[1]), parts[2], parts[3]


@dataclass(frozen=True, slots=True)
class Hello:
    """A gateway asks for a receipt of its epoch."""

    epoch: str

    def encode(self) -> bytes:
        return json.dumps({"epoch": self.epoch}).encode()

    @classmethod
    def decode(cls, payload: bytes) -> "Hello":
        """Raises WireError."""
        epoch = _object(payload).get("epoch")
        if not isinstance(epoch, str) or not is_name(epoch):
            raise WireError("a hello must name its epoch")
        return cls(epoch)


@dataclass(frozen=True, slots=True)
class Receipt:
    """Everything in 1..mark and in `ahead` of the epoch is committed in ClickHouse. `worker` tells one
    worker's life from the next: what was sent to the former may be lost. `refused` is a sentence about a
    batch that cannot be accepted. `undefined` is the dictionary (telemetry.wire) of a batch that was not admitted,
    because the worker does not know what it stands for; a gateway whose dictionary that is takes another.
    """

    epoch: str
    mark: int
    ahead: tuple[tuple[int, int], ...] = ()
    worker: str = ""
    refused: str = ""
    undefined: str = ""

    def ranges(self) -> SeqRanges:
        committed = SeqRanges(self.ahead)
        if self.mark:
            committed.add(1, self.mark)
        return committed

    def encode(self) -> bytes:
        content: dict[str, object] = {
            "epoch": self.epoch,
            "mark": self.mark,
            "ahead": self.ahead[:AHEAD_RANGES_MAX],
            "worker": self.worker,
        }
        if self.refused:
            content["refused"] = self.refused[:REFUSED_CHARS_MAX]
        if self.undefined:
            content["undefined"] = self.undefined
        return json.dumps(content).encode()

    @classmethod
    def decode(cls, payload: bytes) -> "Receipt":
        """Raises WireError."""
        content = _object(payload)
        try:
            ahead = tuple((int(first), int(last)) for first, last in content.get("ahead", []))
            receipt = cls(
                str(content["epoch"]),
                int(content["mark"]),
                ahead,
                str(content.get("worker", "")),
                str(content.get("refused", "")),
                str(content.get("undefined", "")),
            )
        except (KeyError, OverflowError, TypeError, ValueError) as error:
            raise WireError(f"not a receipt: {error}") from error
        if receipt.mark < 0 or any(not 1 <= first <= last for first, last in ahead):
            raise WireError("a receipt's ranges must be ascending and start at 1 or later")
        return receipt


@dataclass(frozen=True, slots=True)
class Status:
    """What an agent says of itself; for the table `gateways`. Times in ms since 1970 UTC, 0 = none."""

    epoch: str
    agent_version: str
    reported_at: int
    mark: int
    last_seq: int
    spool_records: int
    spool_bytes: int
    spool_oldest_at: int
    collectors: dict[str, str] = field(default_factory=dict)
    thinned: int = 0

    def encode(self) -> bytes:
        return json.dumps({name: getattr(self, name) for name in self.__dataclass_fields__}).encode()

    @classmethod
    def decode(cls, payload: bytes) -> "Status":
        """Raises WireError."""
        content = {"thinned": 0} | _object(payload)  # an older agent does not say it
        try:
            numbers = {name: int(content[name]) for name in _STATUS_NUMBERS}
            if any(not 0 <= number < 2**63 for number in numbers.values()):
                raise WireError("a status holds a number that is out of range")
            states = content["collectors"]
            return cls(
                epoch=str(content["epoch"]),
                agent_version=str(content["agent_version"]),
                collectors={str(k): str(v) for k, v in states.items()},
                **numbers,
            )
        except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
            raise WireError(f"not a status: {error}") from error


_STATUS_NUMBERS = ("reported_at", "mark", "last_seq", "spool_records", "spool_bytes", "spool_oldest_at", "thinned")


def _object(payload: bytes) -> dict[str, Any]:
    if len(payload) > MESSAGE_BYTES_MAX:
        raise WireError(f"the message is {len(payload)} bytes long, the limit is {MESSAGE_BYTES_MAX}")
    try:
        content = json.loads(payload)
        json.dumps(content, ensure_ascii=False).encode()  # half a surrogate pair passes as JSON, but is no text
    except (ValueError, RecursionError) as error:
        raise WireError(f"is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise WireError("is not a JSON object")
    return content

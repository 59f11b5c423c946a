"""Where the agent's processor time goes, stage by stage: the way of a message of three readings to the trunk.

Each stage runs by itself in this process, over the same messages, with as many at once as a busy agent has them: READ
from a read of the socket, COMMIT in a commit, BATCH readings in a batch. What the agent spends beside them, on sockets,
threads and the event loop, is what `bench collect` measures of the whole, less these.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import TypeVar

from bench.collect import OURS, messages
from bench.figure import Figure
from broker_bridge.mqtt import codec, encode
from edge_agent.config import GatewayConfig, Mqtt
from edge_agent.config import Spool as SpoolConfig
from edge_agent.decode import Decoder
from edge_agent.spool import Spool, open_spool
from telemetry import wire
from telemetry.columns import Columns
from telemetry.delivery import Chunk

T = TypeVar("T")

READ, COMMIT, BATCH, ROUNDS = 150, 600, 10_000, 5


def run(directory: Path) -> list[Figure]:
    directory.mkdir(parents=True, exist_ok=True)
    made = messages(OURS)
    stages: dict[str, list[float]] = {}
    for round_ in range(ROUNDS):
        config = SpoolConfig(path=directory / f"spool-{round_}", free_bytes_min=0)
        with closing(open_spool(config, "bench")) as spool:
            for stage, took_s in _stages(spool, made):
                stages.setdefault(stage, []).append(took_s)
    took_us = {stage: median(times) / len(made) * 1e6 for stage, times in stages.items()}
    return [
        *(Figure(f"agent, processor time of a message: {stage}", took, "us") for stage, took in took_us.items()),
        Figure("agent, processor time of a message: all of these", sum(took_us.values()), "us"),
    ]


def _stages(spool: Spool, made: list[tuple[str, bytes]]) -> Iterator[tuple[str, float]]:
    """Each stage with the CPU seconds it took for all messages."""
    packets = [encode.publish(topic, payload, packet_id=1 + i % 8192) for i, (topic, payload) in enumerate(made)]
    reads = [b"".join(packets[first : first + READ]) for first in range(0, len(packets), READ)]
    parser = codec.Decoder(1024**2, 1024**2)
    took_s, received = _timed(lambda: [parser.feed(read).messages for read in reads])
    yield "MQTT parsed", took_s

    decoder = Decoder(GatewayConfig(gateway="bench", mqtt=Mqtt()), spool.series_id)
    chunks = [Chunk(1_750_000_000_000, each.topics, each.payloads, each.packet_ids) for each in received]
    decoder.decode(chunks[0], Columns())  # the devices are known
    groups = [chunks[first : first + COMMIT // READ] for first in range(0, len(chunks), COMMIT // READ)]
    took_s, commits = _timed(lambda: [_decoded(decoder, group) for group in groups])
    yield "JSON decoded into columns", took_s

    keys = [[i << 16 | 1 for i in range(first, first + COMMIT)] for first in range(0, len(made), COMMIT)]
    took_s, _ = _timed(lambda: [spool.append(*commit) for commit in zip(commits, keys, strict=True)])
    yield "committed to the spool", took_s

    took_s, _ = _timed(lambda: [encode.pubacks(each.packet_ids) for each in received])
    yield "acknowledged", took_s

    took_s, runs = _timed(lambda: list(_read(spool)))
    yield "read from the spool", took_s

    dictionary = wire.Dictionary()
    took_s, _ = _timed(lambda: [wire.encode(*run, spool.series, dictionary) for run in runs])
    yield "encoded for the trunk", took_s

    took_s, _ = _timed(lambda: [spool.trim(header.last_seq) for header, _ in runs])
    yield "trimmed after the receipt", took_s


def _decoded(decoder: Decoder, group: Sequence[Chunk]) -> Columns:
    columns = Columns()
    for chunk in group:
        refused = decoder.decode(chunk, columns)
        assert not refused, refused
    return columns


def _read(spool: Spool) -> Iterator[tuple[wire.Header, Columns]]:
    after = 0
    while after < spool.next_seq - 1:
        records = spool.read(after, BATCH, 1024**2)
        assert records is not None
        after = records.last_seq
        yield wire.Header("bench", spool.epoch, records.first_seq, after - records.first_seq + 1), records.columns


def _timed(call: Callable[[], T]) -> tuple[float, T]:
    began_s = time.process_time()
    result = call()
    return time.process_time() - began_s, result

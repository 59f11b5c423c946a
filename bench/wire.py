"""The wire format: CPU of encoding on a gateway and of decoding in the cloud, in this process, on one core."""

import time
from collections.abc import Callable
from pathlib import Path

from bench.figure import Figure
from bench.samples import FLEET_METRICS, Sample, fleet, turbines
from ingest.decode import decode
from ingest.dictionaries import Dictionaries
from telemetry import wire

ROWS, ROUNDS, SMALL = 10_000, 5, 1000


def run(_directory: Path) -> list[Figure]:
    made = fleet()
    figures = [*_large("wind turbines", turbines()), *_large("synthetic fleet", made)]
    small = Sample(made.columns.slice(0, FLEET_METRICS * SMALL), made.series)
    encode_s, decode_s, _ = _times(small, FLEET_METRICS)
    return [
        *figures,
        Figure("encode a batch of one message (4 readings)", encode_s / SMALL * 1e6, "us"),
        Figure("decode it", decode_s / SMALL * 1e6, "us"),
    ]


def _large(what: str, sample: Sample) -> list[Figure]:
    encode_s, decode_s, rows = _times(sample, ROWS)
    return [
        Figure(f"encode, CPU per reading in batches of {ROWS:,} ({what})", encode_s / rows * 1e6, "us", at_most=1),
        Figure(f"decode, rows per cpu-second ({what})", rows / decode_s, "rows/s"),
    ]


def _times(sample: Sample, rows_max: int) -> tuple[float, float, int]:
    """(CPU seconds of encoding all of it, of decoding it, rows): the best of some rounds, all series being defined."""
    batches = sample.batches(rows_max)
    dictionary, dictionaries = wire.Dictionary(), Dictionaries()

    def encode() -> list[bytes]:
        return [wire.encode(header, columns, sample.series.__getitem__, dictionary) for header, columns in batches]

    def read(payloads: list[bytes]) -> None:
        for payload in payloads:
            decode(payload, batches[0][0].gateway, dictionaries)

    read(encode())
    payloads = encode()
    return _best_s(encode), _best_s(lambda: read(payloads)), len(sample.columns)


def _best_s(call: Callable[[], object]) -> float:
    seconds = []
    for _ in range(ROUNDS):
        began = time.process_time()
        call()
        seconds.append(time.process_time() - began)
    return min(seconds)

"""The decode stage by format: readings per cpu-second, from messages as the collector hands them over to columns.

A format joins by an entry in MESSAGES: for each kind of message that its devices send, a function that makes the
one with a number. DEVICES devices send them in turn, CHUNK messages at a time.
"""

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from struct import Struct

import msgspec

from bench.figure import Figure
from edge_agent.config import Coap, GatewayConfig, Mapping
from edge_agent.decode import Decoder
from edge_agent.formats import FORMATS
from telemetry.columns import Columns, Series
from telemetry.delivery import Chunk

DEVICES, CHUNK, CHUNKS, ROUNDS = 100, 250, 200, 5
START_MS = 1_767_225_600_000


def _utc(number: int) -> bytes:
    return (datetime(2026, 1, 1, tzinfo=UTC) + timedelta(milliseconds=number)).isoformat().encode()


OPTIONS: dict[str, dict[str, object]] = {
    "csv": {"columns": ["ts", "temperature", "humidity", "pressure"], "time_format": "ms"},
    "json, nested": {"time": "Time", "time_unit": "ms", "ignore": ["TempUnit"]},
    "struct": {
        "time_unit": "ms",
        "fields": [
            {"name": "ts", "type": "u64"},
            {"name": "temperature", "type": "i16", "scale": 0.01},
            {"name": "humidity", "type": "u16", "scale": 0.01},
            {"name": "pressure", "type": "f32"},
        ],
    },
}
"""The section of the mapping, for formats that need one, and for one kind of messages of a format."""


_packed = Struct("<QhHf").pack
_cbor = Struct(">5sQ13sd10sd10sd").pack
_senml_cbor = Struct(">7sd20sd18sd17sd").pack

MESSAGES: dict[str, dict[str, Callable[[int], bytes]]] = {
    "cbor": {
        "three numbers": lambda n: _cbor(
            b"\xa4\x62ts\x1b",
            START_MS + n,
            b"\x6btemperature\xfb",
            20 + n % 1000 / 100,
            b"\x68humidity\xfb",
            40 + n % 700 / 100,
            b"\x68pressure\xfb",
            1000 + n % 90 / 10,
        ),
    },
    "csv": {
        "three numbers": lambda n: (
            b"%d,%.2f,%.2f,%.1f" % (START_MS + n, 20 + n % 1000 / 100, 40 + n % 700 / 100, 1000 + n % 90 / 10)
        ),
        "ten lines of three numbers": lambda n: b"".join(
            b"%d,%.2f,%.2f,%.1f\r\n" % (START_MS + n + k, 20 + n % 1000 / 100, 40 + n % 700 / 100, 1000 + n % 90 / 10)
            for k in range(10)
        ),
        "two numbers and a text": lambda n: (
            b"%d,%.2f,%.2f,ok" % (START_MS + n, 20 + n % 1000 / 100, 40 + n % 700 / 100)
        ),
    },
    "json": {
        "three numbers": lambda n: (
            b'{"ts": %d, "temperature": %.2f, "humidity": %.2f, "pressure": %.1f}'
            % (START_MS + n, 20 + n % 1000 / 100, 40 + n % 700 / 100, 1000 + n % 90 / 10)
        ),
        "thirty numbers": lambda n: (
            b'{"ts": %d, %s}'
            % (START_MS + n, b", ".join(b'"metric%d": %.2f' % (m, (n + m) % 500 / 9) for m in range(30)))
        ),
        "a number, a boolean and a text": lambda n: (
            b'{"ts": %d, "temperature": %.2f, "running": true, "state": "ok"}' % (START_MS + n, 20 + n % 1000 / 100)
        ),
        "three numbers, RFC 3339": lambda n: (
            b'{"ts": "%s", "temperature": %.2f, "humidity": %.2f, "pressure": %.1f}'
            % (_utc(n), 20 + n % 1000 / 100, 40 + n % 700 / 100, 1000 + n % 90 / 10)
        ),
        "nested": lambda n: (
            b'{"Time": %d, "SI7021": {"Temperature": %.2f, "Humidity": %.2f}, "BMP280": {"Pressure": %.1f}, '
            b'"TempUnit": "C"}' % (START_MS + n, 20 + n % 1000 / 100, 40 + n % 700 / 100, 1000 + n % 90 / 10)
        ),
        "three numbers, each tenth message one less": lambda n: (
            b'{"ts": %d, "temperature": %.2f, "humidity": %d, "gust": %s}'
            % (START_MS + n, 20 + n % 1000 / 100, n % 100, b"null" if n % 10 == 7 else b"1.5")
        ),
    },
    "influx": {
        "three numbers": lambda n: (
            b"weather,site=north temperature=%.2f,humidity=%.2f,samples=%di %d000000"
            % (20 + n % 1000 / 100, 40 + n % 700 / 100, n % 60, START_MS + n)
        ),
        "ten lines of three numbers": lambda n: b"".join(
            b"weather,room=r%d temperature=%.2f,humidity=%.2f,samples=%di %d000000\n"
            % (room, 20 + n % 1000 / 100, 40 + n % 700 / 100, n % 60, START_MS + n)
            for room in range(10)
        ),
        "a number, a boolean and a text": lambda n: (
            b'weather,site=north temperature=%.2f,running=true,state="ok" %d000000'
            % (20 + n % 1000 / 100, START_MS + n)
        ),
    },
    "msgpack": {
        "three numbers": lambda n: msgspec.msgpack.encode(
            {
                "ts": START_MS + n,
                "temperature": 20 + n % 1000 / 100,
                "humidity": 40 + n % 700 / 100,
                "pressure": 1000 + n % 90 / 10,
            }
        ),
        "ten maps of three numbers": lambda n: msgspec.msgpack.encode(
            [
                {"ts": START_MS + n + k, "temperature": 20 + n % 1000 / 100, "humidity": n % 70, "pressure": 1000.5}
                for k in range(10)
            ]
        ),
    },
    "senml-cbor": {
        "three numbers": lambda n: _senml_cbor(
            b"\x83\xa5\x21an\x22\xfb",
            (START_MS + n) / 1000,
            b"\x00\x6btemperature\x01cCel\x02\xfb",
            20 + n % 1000 / 100,
            b"\xa3\x00\x68humidity\x01c%RH\x02\xfb",
            40 + n % 700 / 100,
            b"\xa3\x00\x68pressure\x01bPa\x02\xfb",
            1000 + n % 90 / 10,
        ),
    },
    "senml-json": {
        "three numbers": lambda n: (
            b'[{"bn":"n:","bt":%.3f,"n":"temperature","u":"Cel","v":%.2f},{"n":"humidity","u":"%%RH","v":%.2f},'
            b'{"n":"pressure","u":"Pa","v":%.1f}]'
            % ((START_MS + n) / 1000, 20 + n % 1000 / 100, 40 + n % 700 / 100, 1000 + n % 90 / 10)
        ),
        "one sensor, ten times": lambda n: (
            b'[{"bn":"temperature","bu":"Cel","bt":%.3f,"v":%.2f}%s]'
            % (
                (START_MS + n) / 1000,
                20 + n % 1000 / 100,
                b"".join(b',{"t":%d,"v":%.2f}' % (k, 20 + (n + k) % 1000 / 100) for k in range(1, 10)),
            )
        ),
    },
    "struct": {
        "three numbers": lambda n: _packed(START_MS + n, 2000 + n % 1000, 4000 + n % 700, 1000 + n % 90 / 10),
        "ten records of three numbers": lambda n: b"".join(
            _packed(START_MS + n + k, 2000 + n % 1000, 4000 + n % 700, 1000 + n % 90 / 10) for k in range(10)
        ),
    },
    "text": {
        "a number": lambda n: b"%.2f" % (20 + n % 1000 / 100),
        "on and off": lambda n: (b"OFF", b"ON")[n % 2],
        "a word": lambda n: (b"open", b"closed")[n % 2],
    },
}


def run(_directory: Path) -> list[Figure]:
    missing = sorted(set(FORMATS) - set(MESSAGES))
    assert not missing, f"bench/formats.py has no messages of {', '.join(missing)}"
    return [_figure(format_, kind, make) for format_, kinds in MESSAGES.items() for kind, make in kinds.items()]


def _figure(format_: str, kind: str, make: Callable[[int], bytes]) -> Figure:
    chunks = [
        _chunk([make(first + number) for number in range(CHUNK)], first) for first in range(0, CHUNK * CHUNKS, CHUNK)
    ]
    ids: dict[Series, int] = {}
    options = OPTIONS.get(f"{format_}, {kind}", OPTIONS.get(format_))
    mapping = Mapping.model_validate({"format": format_, **({format_: options} if options else {})})
    config = GatewayConfig(gateway="g", coap=Coap(), mappings=(mapping,))
    decoder = Decoder(config, lambda series: ids.setdefault(series, len(ids)))
    rates = [_rate(decoder, chunks) for _ in range(ROUNDS)]
    return Figure(f"decode {format_}, {kind}: readings per cpu-second", median(rates), "/s")


def _chunk(payloads: list[bytes], first: int) -> Chunk:
    topics = [f"devices/dev-{(first + number) % DEVICES:04d}/telemetry" for number in range(len(payloads))]
    return Chunk(START_MS, topics, payloads, [0] * len(payloads))


def _rate(decoder: Decoder, chunks: Sequence[Chunk]) -> float:
    readings = 0
    began_s = time.process_time()
    for chunk in chunks:
        columns = Columns()
        refused = decoder.decode(chunk, columns)
        assert not refused, refused
        readings += len(columns)
    return readings / (time.process_time() - began_s)

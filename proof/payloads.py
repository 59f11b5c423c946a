"""What the drill's devices say, in each format: a time in ms since 1970 UTC and numbers by name, as bytes.

Shares no code with the pipeline, on purpose: each encoder writes what its specification has for this one shape.
"""

import json
import struct
from collections.abc import Callable, Mapping

Values = Mapping[str, float]


def as_json(at_ms: int, values: Values) -> bytes:
    """One object."""
    return json.dumps({"ts": at_ms, **values}).encode()


def as_csv(at_ms: int, values: Values) -> bytes:
    """One line, the time first."""
    return ",".join(map(repr, (at_ms, *values.values()))).encode()


def as_influx(at_ms: int, values: Values) -> bytes:
    """One line of the measurement `drill`, stamped in ms."""
    fields = ",".join(f"{name}={value!r}" for name, value in values.items())
    return f"drill {fields} {at_ms}".encode()


def as_senml(at_ms: int, values: Values) -> bytes:
    """RFC 8428: a base time, and a record for each value."""
    records = [{"n": name, "v": value} for name, value in values.items()]
    return json.dumps([{"bt": at_ms / 1000} | records[0], *records[1:]]).encode()


def as_cbor(at_ms: int, values: Values) -> bytes:
    """RFC 8949: a map of at most 23 texts to an unsigned integer of 64 bits and to doubles."""
    items = b"".join(_cbor_text(name) + b"\xfb" + struct.pack(">d", value) for name, value in values.items())
    return bytes([0xA1 + len(values)]) + _cbor_text("ts") + b"\x1b" + struct.pack(">Q", at_ms) + items


def as_msgpack(at_ms: int, values: Values) -> bytes:
    """A fixmap of at most 15 fixstrs to a uint 64 and to float 64s."""
    items = b"".join(_msgpack_text(name) + b"\xcb" + struct.pack(">d", value) for name, value in values.items())
    return bytes([0x81 + len(values)]) + _msgpack_text("ts") + b"\xcf" + struct.pack(">Q", at_ms) + items


def as_struct(at_ms: int, values: Values) -> bytes:
    """Little-endian: i64, then f64s."""
    return struct.pack(f"<q{len(values)}d", at_ms, *values.values())


def _cbor_text(text: str) -> bytes:
    return bytes([0x60 + len(text)]) + text.encode()


def _msgpack_text(text: str) -> bytes:
    return bytes([0xA0 + len(text)]) + text.encode()


ENCODERS: dict[str, Callable[[int, Values], bytes]] = {
    "json": as_json,
    "csv": as_csv,
    "influx": as_influx,
    "senml-json": as_senml,
    "cbor": as_cbor,
    "msgpack": as_msgpack,
    "struct": as_struct,
}

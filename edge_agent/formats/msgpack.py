"""Format `msgpack`: MessagePack (the specification of 2017), a map of metrics or an array of such maps.

A flat map is read by msgspec; a reader of our own takes the rest, and tells a key that comes twice, which msgspec
would not. Rules and limits of readings are those of `objects`.

Read: nil, booleans, integers, floats, str, bin, array, map, and the timestamp extension as seconds. Keys are texts or
integers of at most 16 bits; an integer is the key of its digits, so that 1 is "1". Refused: other extensions and keys,
a key that comes twice, what is nested too deep, what is cut off, and bytes behind the first item.
"""

import struct

import msgspec

from edge_agent.config import Objects
from edge_agent.formats.fields import DEPTH_MAX, TOO_DEEP, Value, sample
from edge_agent.formats.objects import ObjectsDecoder
from edge_agent.formats.times import milliseconds
from edge_agent.readings import Readings, SeriesIds
from telemetry.columns import TIME_FROM_DEVICE, TIME_FROM_GATEWAY
from telemetry.errors import FieldlineError

_KEY_MAX = 0xFFFF
_TIMESTAMP = -1

_fields = msgspec.msgpack.Decoder(dict[str, Value]).decode

_CONSTANTS: dict[int, object] = {0xC0: None, 0xC2: False, 0xC3: True}
_NUMBERS = {
    first: struct.Struct(layout)
    for first, layout in zip(
        range(0xCA, 0xD4), (">f", ">d", ">B", ">H", ">I", ">Q", ">b", ">h", ">i", ">q"), strict=True
    )
}
_STRINGS = {0xD9: 1, 0xDA: 2, 0xDB: 4}
_BYTES = {0xC4: 1, 0xC5: 2, 0xC6: 4}
_ARRAYS = {0xDC: 2, 0xDD: 4}
_MAPS = {0xDE: 2, 0xDF: 4}
_EXTENSIONS = {0xC7: 1, 0xC8: 2, 0xC9: 4}
_FIXED_EXTENSIONS = {0xD4: 1, 0xD5: 2, 0xD6: 4, 0xD7: 8, 0xD8: 16}


class MsgpackDecoder(ObjectsDecoder):
    """The messages of one topic."""

    __slots__ = ("_is_flat",)

    def __init__(self, series: SeriesIds, options: Objects | None) -> None:
        super().__init__(msgpack_tree, series, options)
        self._is_flat = options is None

    def __call__(self, payload: bytes, received_at_ms: int, into: Readings) -> str | None:
        """See `edge_agent.formats`; times in ms since 1970 UTC."""
        if not self._is_flat:
            return super().__call__(payload, received_at_ms, into)
        try:
            fields = _fields(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            fields = {}
        if not fields or len(fields) != _keys(payload):
            return super().__call__(payload, received_at_ms, into)
        ts = fields.pop("ts", None)
        try:
            if ts is None:
                one = sample(fields, received_at_ms, TIME_FROM_GATEWAY)
            else:
                one = sample(fields, milliseconds(ts), TIME_FROM_DEVICE)
            into.add(self._series[one.metrics], one.values, one.measured_at_ms, one.quality, one.texts)
        except FieldlineError as error:
            return str(error)
        return None


def _keys(payload: bytes) -> int:
    """How many keys a map says it has."""
    first = payload[0]
    return first & 0x0F if first < 0x90 else int.from_bytes(payload[1 : 1 + _MAPS[first]])


def msgpack_tree(payload: bytes) -> object:
    """What one item stands for; maps have texts as keys. Raises FieldlineError, the reason."""
    if not payload:
        raise FieldlineError("the payload is empty")
    reader = _Reader(payload)
    try:
        item = reader.item(0)
    except (IndexError, struct.error):
        raise FieldlineError("the payload is no MessagePack: it ends in the middle of an item") from None
    except UnicodeDecodeError:
        raise FieldlineError("the payload is no MessagePack: a text in it is not valid UTF-8") from None
    if reader.at != len(payload):
        raise FieldlineError(f"the payload is no single MessagePack item: {len(payload) - reader.at} bytes follow it")
    return item


class _Reader:
    """Reads items from `at` on. Raises IndexError or struct.error at the end of the payload."""

    __slots__ = ("_payload", "at")

    def __init__(self, payload: bytes) -> None:
        self._payload = payload
        self.at = 0

    def item(self, depth: int) -> object:  # noqa: C901, PLR0911, PLR0912 - one branch per family of first bytes
        first = self._payload[self.at]
        self.at += 1
        if first < 0x80:
            return first
        if first < 0x90:
            return self._map(first & 0x0F, depth)
        if first < 0xA0:
            return self._array(first & 0x0F, depth)
        if first < 0xC0:
            return self._take(first & 0x1F).decode()
        if first >= 0xE0:
            return first - 0x100
        if first in _NUMBERS:
            layout = _NUMBERS[first]
            self.at += layout.size
            return layout.unpack_from(self._payload, self.at - layout.size)[0]
        if first in _CONSTANTS:
            return _CONSTANTS[first]
        if first in _STRINGS:
            return self._take(self._size(_STRINGS[first])).decode()
        if first in _MAPS:
            return self._map(self._size(_MAPS[first]), depth)
        if first in _ARRAYS:
            return self._array(self._size(_ARRAYS[first]), depth)
        if first in _BYTES:
            return self._take(self._size(_BYTES[first]))
        if first in _FIXED_EXTENSIONS:
            return self._extension(_FIXED_EXTENSIONS[first])
        if first in _EXTENSIONS:
            return self._extension(self._size(_EXTENSIONS[first]))
        raise FieldlineError(f"the payload is no MessagePack: the byte {first:#04x} begins no item")

    def _take(self, size: int) -> bytes:
        self._must_hold(size)
        self.at += size
        return self._payload[self.at - size : self.at]

    def _size(self, size_bytes: int) -> int:
        return int.from_bytes(self._take(size_bytes))

    def _must_hold(self, size: int) -> None:
        if size > len(self._payload) - self.at:
            raise IndexError

    def _array(self, count: int, depth: int) -> list[object]:
        if depth == DEPTH_MAX:
            raise FieldlineError(TOO_DEEP)
        self._must_hold(count)
        return [self.item(depth + 1) for _ in range(count)]

    def _map(self, count: int, depth: int) -> dict[str, object]:
        if depth == DEPTH_MAX:
            raise FieldlineError(TOO_DEEP)
        self._must_hold(2 * count)
        fields: dict[str, object] = {}
        for _ in range(count):
            key = self.item(DEPTH_MAX)
            if type(key) is int and -_KEY_MAX <= key <= _KEY_MAX:
                key = str(key)
            if not isinstance(key, str):
                raise FieldlineError("a key must be a text or an integer of at most 16 bits")
            if key in fields:
                raise FieldlineError(f"the key {key[:60]!r} comes twice")
            fields[key] = self.item(depth + 1)
        return fields

    def _extension(self, size: int) -> float:
        (kind,) = struct.unpack(">b", self._take(1))
        data = self._take(size)
        if kind == _TIMESTAMP and size == 4:
            return int.from_bytes(data)
        if kind == _TIMESTAMP and size == 8:
            both = int.from_bytes(data)
            return (both & 0x3_FFFF_FFFF) + (both >> 34) / 1e9
        if kind == _TIMESTAMP and size == 12:
            nanoseconds, seconds = struct.unpack(">Iq", data)
            return float(seconds + nanoseconds / 1e9)
        raise FieldlineError(f"the MessagePack extension {kind} of {size} bytes is not supported")

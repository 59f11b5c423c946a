"""CBOR (RFC 8949): from bytes to what they stand for, and format `cbor`: a map of metrics, or an array of such maps.

A reader of our own. It takes what readings need and nothing that runs code or refers to other places: a library's
tags do (regular expressions, MIME, shared and cyclic values, decimals whose text takes seconds).

Read: integers, byte and text strings, arrays, maps, all of definite and indefinite length; false, true, null, undefined
(as null), floats of 16, 32 and 64 bits. Of tags: 0 and 1 (times) and 55799 (this is CBOR) leave what they hold as it
is; 2 to 5 (big integers, decimal fractions, big floats) are numbers. Keys are texts or integers of at most 16 bits; an
integer is the key of its digits, so that 1 is "1".

Refused: other tags, simple values and keys, a key that comes twice, what is nested too deep, what is cut off, and
bytes behind the first item. A declared length costs nothing before its bytes are there.
"""

import struct
from collections.abc import Mapping
from math import ldexp

from edge_agent.formats.fields import DEPTH_MAX, TOO_DEEP
from telemetry.errors import FieldlineError

BIG_BYTES_MAX = 128
"""Of an integer as a byte string: more than a float64 can be."""

_KEY_MAX = 0xFFFF
_PLAIN_TAGS = (0, 1, 55799)
_SIMPLE: dict[int, object] = {20: False, 21: True, 22: None, 23: None}
_FLOATS = {25: struct.Struct(">e"), 26: struct.Struct(">f"), 27: struct.Struct(">d")}
_BREAK = 0xFF


def cbor_tree(payload: bytes, labels: Mapping[int, str] | None = None) -> object:
    """What one item stands for; maps have texts as keys, an integer being called as in `labels`.

    Raises FieldlineError, the reason.
    """
    if not payload:
        raise FieldlineError("the payload is empty")
    reader = _Reader(payload, labels or {})
    try:
        item = reader.item(0)
    except (IndexError, struct.error):
        raise FieldlineError("the payload is no CBOR: it ends in the middle of an item") from None
    except UnicodeDecodeError:
        raise FieldlineError("the payload is no CBOR: a text in it is not valid UTF-8") from None
    if reader.at != len(payload):
        raise FieldlineError(f"the payload is no single CBOR item: {len(payload) - reader.at} bytes follow it")
    return item


class _Reader:
    """Reads items from `at` on. Raises IndexError or struct.error at the end of the payload."""

    __slots__ = ("_labels", "_payload", "at")

    def __init__(self, payload: bytes, labels: Mapping[int, str]) -> None:
        self._payload = payload
        self._labels = labels
        self.at = 0

    def item(self, depth: int) -> object:  # noqa: PLR0911 - one return per major type reads best
        initial = self._payload[self.at]
        self.at += 1
        major, info = initial >> 5, initial & 0x1F
        if major == 7:
            return self._float_or_simple(info)
        count = info if info < 24 else self._argument(major, info)
        if major == 5:
            return self._map(count, depth)
        if major == 4:
            return self._array(count, depth)
        if major == 3:
            return self._bytes(count, major).decode()
        if major == 2:
            return self._bytes(count, major)
        assert count is not None
        if major == 6:
            return self._tagged(count, depth)
        return -1 - count if major else count

    def _argument(self, major: int, info: int) -> int | None:
        """The number behind an initial byte; None for an indefinite length."""
        if info < 28:
            size = 1 << info - 24
            self._must_hold(size)
            self.at += size
            return int.from_bytes(self._payload[self.at - size : self.at])
        if info == 31 and 2 <= major <= 5:
            return None
        raise FieldlineError(f"the payload is no CBOR: the byte {self._payload[self.at - 1]:#04x} begins no item")

    def _must_hold(self, size: int) -> None:
        if size > len(self._payload) - self.at:
            raise IndexError

    def _ends(self) -> bool:
        """Whether an item of indefinite length ends here."""
        if self._payload[self.at] != _BREAK:
            return False
        self.at += 1
        return True

    def _bytes(self, count: int | None, major: int) -> bytes:
        if count is not None:
            self._must_hold(count)
            self.at += count
            return self._payload[self.at - count : self.at]
        chunks = []
        while not self._ends():
            initial = self._payload[self.at]
            self.at += 1
            info = initial & 0x1F
            size = info if info < 24 else self._argument(0, info)  # as a number's: it must be definite
            if initial >> 5 != major:
                raise FieldlineError("the payload is no CBOR: a string has a piece of another kind")
            chunks.append(self._bytes(size, major))
        return b"".join(chunks)

    def _array(self, count: int | None, depth: int) -> list[object]:
        if depth == DEPTH_MAX:
            raise FieldlineError(TOO_DEEP)
        if count is None:
            items = []
            while not self._ends():
                items.append(self.item(depth + 1))
            return items
        self._must_hold(count)
        return [self.item(depth + 1) for _ in range(count)]

    def _map(self, count: int | None, depth: int) -> dict[str, object]:
        if depth == DEPTH_MAX:
            raise FieldlineError(TOO_DEEP)
        fields: dict[str, object] = {}
        if count is not None:
            self._must_hold(2 * count)
        while not self._ends() if count is None else len(fields) < count:
            key = self.item(DEPTH_MAX)
            if type(key) is int and -_KEY_MAX <= key <= _KEY_MAX:
                key = self._labels.get(key) or str(key)
            if not isinstance(key, str):
                raise FieldlineError("a key must be a text or an integer of at most 16 bits")
            if key in fields:
                raise FieldlineError(f"the key {key[:60]!r} comes twice")
            fields[key] = self.item(depth + 1)
        return fields

    def _float_or_simple(self, info: int) -> object:
        if info in _FLOATS:
            layout = _FLOATS[info]
            value: float = layout.unpack_from(self._payload, self.at)[0]
            self.at += layout.size
            return value
        if info not in _SIMPLE:
            raise FieldlineError(f"the payload has the CBOR byte {0xE0 | info:#04x}, which is no value we know")
        return _SIMPLE[info]

    def _tagged(self, tag: int, depth: int) -> object:
        if depth == DEPTH_MAX:
            raise FieldlineError(TOO_DEEP)
        content = self.item(depth + 1)
        if tag in _PLAIN_TAGS:
            return content
        try:
            match tag, content:
                case (2, bytes(digits)) if len(digits) <= BIG_BYTES_MAX:
                    return float(int.from_bytes(digits))
                case (3, bytes(digits)) if len(digits) <= BIG_BYTES_MAX:
                    return float(-1 - int.from_bytes(digits))
                case (4, [int(exponent), int(mantissa)]):
                    return float(f"{mantissa}e{exponent}")
                case (5, [int(exponent), int(mantissa)]):
                    return ldexp(mantissa, exponent)
        except (OverflowError, ValueError):  # ValueError: true and false are integers too
            raise FieldlineError(f"what the CBOR tag {tag} holds is no number of a float64's range") from None
        if 2 <= tag <= 5:
            raise FieldlineError(f"the CBOR tag {tag} does not hold a number")
        raise FieldlineError(f"the CBOR tag {tag} is not supported")

"""From the value of a metric to readings, by its datatype (Sparkplug 3.0, "Datatype Details").

  Int8 … Int64      a number. They are sent as unsigned integers, in two's complement of their own width, of 32 or of
                    64 bits: 0xFF, 0xFFFFFFFF and 2^64 - 1 are all -1 of an Int8
  UInt8 … UInt64    a number; one beyond 2^53 is rounded to a float64
  Float, Double     a number. NaN is no reading, as null is none
  Boolean           1 or 0
  DateTime          a number: ms since 1970 UTC
  String, Text, UUID  a text
  DataSet           a reading for each of its cells, METRIC/ROW/COLUMN with rows from 0; an empty cell is none
Nothing else is a reading: Bytes, File, Template, arrays, infinities, numbers that do not fit their type, long texts.

Limits: TEXT_BYTES_MAX per text, CELLS_MAX per data set.
"""

from collections.abc import Callable, Iterator
from math import isinf, isnan
from typing import Any

from edge_agent.formats.fields import TEXT_BYTES_MAX
from edge_agent.sparkplug.payload import BOOL, DOUBLE, FLOAT, INT, LONG, STRING, float32, float64, text
from edge_agent.sparkplug.protobuf import BYTES, VARINT, WireError, fields

Value = float | str | None
Convert = Callable[[int, Any], Value]

CELLS_MAX = 10_000
DATASET_TYPE = 16
TYPES = (
    *("Unknown", "Int8", "Int16", "Int32", "Int64", "UInt8", "UInt16", "UInt32", "UInt64", "Float", "Double"),
    *("Boolean", "String", "DateTime", "Text", "UUID", "DataSet", "Bytes", "File", "Template"),
    *("PropertySet", "PropertySetList", "Int8Array", "Int16Array", "Int32Array", "Int64Array", "UInt8Array"),
    *("UInt16Array", "UInt32Array", "UInt64Array", "FloatArray", "DoubleArray", "BooleanArray", "StringArray"),
    "DateTimeArray",
)
"""By their codes."""
BASIC = 14
"""The last code of those that a column of a data set may have."""

_COLUMN, _ROW = 2 << 3 | BYTES, 4 << 3 | BYTES
_TYPE, _CELL = 3 << 3 | VARINT, 1 << 3 | BYTES
_CELL_TO_METRIC = INT - (1 << 3 | VARINT)
"""What a cell's tags are less than those of a metric's values."""


class NoReadingError(ValueError):
    """The text, behind the metric's name, says why a value is no reading."""


def value_of(datatype: int, tag: int, value: Any) -> Value:
    """The value of any type but DataSet. Raises NoReadingError."""
    convert = _CONVERT.get(datatype)
    if convert is None:
        name = TYPES[datatype] if datatype < len(TYPES) else f"of the unknown type {datatype}"
        raise NoReadingError("has no datatype" if not datatype else f"is {name}, which is no reading")
    return convert(tag, value)


def cells(raw: bytes) -> Iterator[tuple[str, int, int, Any]]:
    """The cells of a data set: ROW/COLUMN, datatype, tag and value. Raises NoReadingError, WireError."""
    found = fields(raw)
    columns = [text(value) for tag, value in found if tag == _COLUMN]
    types = [value for tag, value in found if tag == _TYPE]
    rows = [value for tag, value in found if tag == _ROW]
    if len(columns) != len(types):
        raise NoReadingError(f"is a DataSet of {len(columns)} columns with {len(types)} types")
    if wrong := [column for column, datatype in zip(columns, types, strict=True) if not 0 < datatype <= BASIC]:
        raise NoReadingError(f"is a DataSet, and its column {wrong[0][:60]!r} has no basic type")
    if len(set(columns)) != len(columns):
        raise NoReadingError("is a DataSet with two columns of one name")
    if len(columns) * len(rows) > CELLS_MAX:
        raise NoReadingError(f"is a DataSet of {len(columns) * len(rows)} cells, at most {CELLS_MAX} are allowed")
    for number, row in enumerate(rows):
        elements = [value for tag, value in fields(row) if tag == _CELL]
        if len(elements) != len(columns):
            raise NoReadingError(f"is a DataSet of {len(columns)} columns, row {number} has {len(elements)}")
        for column, datatype, element in zip(columns, types, elements, strict=True):
            for tag, value in fields(element)[-1:]:
                yield f"{number}/{column}", datatype, tag + _CELL_TO_METRIC, value


def _unfit(datatype: int) -> NoReadingError:
    return NoReadingError(f"is {TYPES[datatype]}, and its value is not")


def _unsigned(datatype: int, bits: int) -> Convert:
    def convert(tag: int, value: Any) -> Value:
        if tag not in (INT, LONG) or value >> bits:
            raise _unfit(datatype)
        return int(value)

    return convert


def _signed(datatype: int, bits: int) -> Convert:
    limit = 1 << bits - 1
    spans = [1 << width for width in sorted({bits, 32, 64}) if width >= bits]

    def convert(tag: int, value: Any) -> Value:
        if tag not in (INT, LONG):
            raise _unfit(datatype)
        if value < limit:
            return int(value)
        for span in spans:
            if span - limit <= value < span:
                return int(value) - span
        raise _unfit(datatype)

    return convert


def _real(datatype: int) -> Convert:
    def convert(tag: int, value: Any) -> Value:
        if tag == FLOAT:
            (number,) = float32(value)
        elif tag == DOUBLE:
            (number,) = float64(value)
        else:
            raise _unfit(datatype)
        if isnan(number):
            return None
        if isinf(number):
            raise NoReadingError("is infinite")
        return float(number)

    return convert


def _boolean(tag: int, value: Any) -> Value:
    if tag != BOOL:
        raise _unfit(11)
    return float(bool(value))


def _text(datatype: int) -> Convert:
    def convert(tag: int, value: Any) -> Value:
        if tag != STRING:
            raise _unfit(datatype)
        if len(value) > TEXT_BYTES_MAX:
            raise NoReadingError(f"is a text of {len(value)} bytes, at most {TEXT_BYTES_MAX} are allowed")
        try:
            return text(value)
        except WireError as error:
            raise NoReadingError(f"is {TYPES[datatype]}, but {error}") from None

    return convert


_CONVERT: dict[int, Convert] = {
    **{code: _signed(code, bits) for code, bits in ((1, 8), (2, 16), (3, 32), (4, 64))},
    **{code: _unsigned(code, bits) for code, bits in ((5, 8), (6, 16), (7, 32), (8, 64))},
    9: _real(9),
    10: _real(10),
    11: _boolean,
    12: _text(12),
    13: _unsigned(13, 64),
    14: _text(14),
    15: _text(15),
}

"""Sparkplug's payloads: what Eclipse Tahu's library writes is read, each datatype, and no bytes do harm."""

import math
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from tahutils.tahu import sparkplug_b as tahu
from tahutils.tahu.sparkplug_b_pb2 import Payload

from edge_agent.sparkplug.payload import REBIRTH, parse, rebirth_request
from edge_agent.sparkplug.protobuf import WireError, fields, written
from edge_agent.sparkplug.values import CELLS_MAX, NoReadingError, Value, cells, value_of
from telemetry.columns import VALUE_BAD, VALUE_STALE
from tests.records import NEW_YEAR_MS
from tests.sparkplug import payload

TYPES = tahu.MetricDataType
INTEGERS = {
    **{getattr(TYPES, f"Int{bits}"): (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{getattr(TYPES, f"UInt{bits}"): (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    TYPES.DateTime: (0, 2**64 - 1),
}


def through(datatype: int, value: object) -> Value:
    """A value on its way through Tahu's encoder and our reader."""
    made = Payload()
    tahu.addMetric(made, "m", None, datatype, value)
    (metric,) = parse(made.SerializeToString()).metrics
    assert metric.datatype == datatype
    return value_of(metric.datatype, metric.tag, metric.value)


@given(st.sampled_from(sorted(INTEGERS)).flatmap(lambda t: st.tuples(st.just(t), st.integers(*INTEGERS[t]))))
def test_integers_of_all_widths(case: tuple[int, int]) -> None:
    assert through(*case) == case[1]


@pytest.mark.parametrize(
    ("datatype", "field", "sent", "value"),
    [
        (TYPES.Int8, "int_value", 0xFF, -1),
        (TYPES.Int8, "int_value", 0xFFFF_FFFF, -1),
        (TYPES.Int8, "int_value", 0x80, -128),
        (TYPES.Int8, "int_value", 0x7F, 127),
        (TYPES.Int16, "int_value", 0xFFFF_8000, -32768),
        (TYPES.Int32, "int_value", 0x8000_0000, -(2**31)),
        (TYPES.Int32, "long_value", 2**64 - 5, -5),
        (TYPES.Int64, "long_value", 2**63, -(2**63)),
        (TYPES.Int64, "int_value", 7, 7),
        (TYPES.UInt32, "long_value", 2**32 - 1, 2**32 - 1),
    ],
)
def test_twos_complement_as_encoders_write_it(datatype: int, field: str, sent: int, value: int) -> None:
    (metric,) = parse(payload({"name": "m", "datatype": datatype, field: sent})).metrics
    assert value_of(datatype, metric.tag, metric.value) == value


@given(st.floats(allow_infinity=False))
def test_doubles(value: float) -> None:
    got = through(TYPES.Double, value)
    assert got is None if math.isnan(value) else got == value


@given(st.floats(width=32, allow_infinity=False, allow_nan=False))
def test_floats_are_what_32_bits_hold(value: float) -> None:
    assert through(TYPES.Float, value) == value


@given(st.text(), st.sampled_from([TYPES.String, TYPES.Text, TYPES.UUID]))
def test_texts(value: str, datatype: int) -> None:
    assert through(datatype, value) == value


def test_booleans() -> None:
    assert [through(TYPES.Boolean, value) for value in (True, False)] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("metric", "reason"),
    [
        ({"datatype": TYPES.Int8, "int_value": 128 + 256}, "is Int8, and its value is not"),
        ({"datatype": TYPES.Int8, "int_value": 0x7FFF_FF80}, "is Int8, and its value is not"),
        ({"datatype": TYPES.UInt8, "int_value": 256}, "is UInt8, and its value is not"),
        ({"datatype": TYPES.UInt32, "long_value": 2**32}, "is UInt32, and its value is not"),
        ({"datatype": TYPES.Int32, "float_value": 1.0}, "is Int32, and its value is not"),
        ({"datatype": TYPES.Float, "int_value": 1}, "is Float, and its value is not"),
        ({"datatype": TYPES.Double, "double_value": math.inf}, "is infinite"),
        ({"datatype": TYPES.Boolean, "int_value": 1}, "is Boolean, and its value is not"),
        ({"datatype": TYPES.String, "bytes_value": b"x"}, "is String, and its value is not"),
        ({"datatype": TYPES.String, "string_value": "x" * 65_537}, "is a text of 65537 bytes, at most 65536"),
        ({"datatype": TYPES.Bytes, "bytes_value": b"x"}, "is Bytes, which is no reading"),
        ({"datatype": TYPES.File, "bytes_value": b"x"}, "is File, which is no reading"),
        ({"datatype": TYPES.Template, "template_value": {}}, "is Template, which is no reading"),
        ({"datatype": 24, "bytes_value": b"x"}, "is Int32Array, which is no reading"),
        ({"datatype": 99, "int_value": 1}, "is of the unknown type 99, which is no reading"),
        ({"int_value": 1}, "has no datatype"),
    ],
)
def test_what_is_no_reading(metric: dict[str, Any], reason: str) -> None:
    (got,) = parse(payload({"name": "m", **metric})).metrics
    with pytest.raises(NoReadingError, match=reason):
        value_of(got.datatype, got.tag, got.value)


def test_the_fields_of_payload_and_metric() -> None:
    raw = payload(
        {"name": "Inputs/A", "alias": 2**64 - 1, "timestamp": 5, "datatype": 3, "is_historical": True, "int_value": 7},
        {"alias": 3, "is_null": True, "is_transient": True},
        seq=255,
        at_ms=9,
    )
    got = parse(raw)
    assert (got.timestamp, got.seq) == (9, 255)
    first, second = got.metrics
    assert (first.name, first.alias, first.timestamp, first.datatype) == ("Inputs/A", 2**64 - 1, 5, 3)
    assert (first.is_transient, value_of(3, first.tag, first.value)) == (False, 7)
    assert (second.name, second.alias, second.tag, second.is_transient) == (None, 3, 0, True)
    assert parse(b"") == parse(payload(at_ms=None))


@pytest.mark.parametrize(
    ("properties", "unit", "quality"),
    [
        ({"engUnit": {"type": 12, "string_value": "°C"}}, "°C", 0),
        ({"engUnit": {"type": 12, "string_value": "x" * 33}}, "", 0),
        ({"engUnit": {"type": 12, "string_value": "a\x07"}}, "", 0),
        ({"engUnit": {"type": 12, "is_null": True}}, "", 0),
        ({"Quality": {"type": 3, "int_value": 192}}, "", 0),
        ({"Quality": {"type": 3, "int_value": 0}}, "", VALUE_BAD),
        ({"Quality": {"type": 3, "int_value": 500}}, "", VALUE_STALE),
        ({"Quality": {"type": 3, "int_value": 64}}, "", VALUE_BAD),
        ({"Low": {"type": 10, "double_value": 1.0}, "engUnit": {"type": 12, "string_value": "bar"}}, "bar", 0),
    ],
)
def test_the_properties_that_matter(properties: dict[str, dict[str, Any]], unit: str, quality: int) -> None:
    said = {"keys": list(properties), "values": list(properties.values())}
    (metric,) = parse(payload({"name": "m", "properties": said})).metrics
    assert (metric.unit, metric.quality) == (unit, quality)


def dataset(columns: list[str], types: list[int], rows: list[list[dict[str, Any]]]) -> bytes:
    table = {"num_of_columns": len(columns), "columns": columns, "types": types}
    table["rows"] = [{"elements": row} for row in rows]
    (metric,) = parse(payload({"name": "m", "dataset_value": table})).metrics
    return metric.value


def test_a_data_set_is_its_cells() -> None:
    rows = [
        [{"int_value": 2**32 - 1}, {"string_value": "a"}, {"boolean_value": True}, {"long_value": NEW_YEAR_MS}],
        [{"int_value": 2}, {}, {"boolean_value": False}, {"long_value": 0}],
    ]
    got = [(place, value_of(*cell)) for place, *cell in cells(dataset(["n", "t", "b", "at"], [3, 12, 11, 13], rows))]
    assert got == [
        ("0/n", -1),
        ("0/t", "a"),
        ("0/b", 1.0),
        ("0/at", NEW_YEAR_MS),
        ("1/n", 2),
        ("1/b", 0.0),
        ("1/at", 0),
    ]


@pytest.mark.parametrize(
    ("columns", "types", "rows", "reason"),
    [
        (["a"], [3, 3], [], "is a DataSet of 1 columns with 2 types"),
        (["a", "a"], [3, 3], [], "is a DataSet with two columns of one name"),
        (["a"], [16], [], "is a DataSet, and its column 'a' has no basic type"),
        (["a"], [3], [[{}, {}]], "is a DataSet of 1 columns, row 0 has 2"),
        (["a"], [3], [[{}]] * (CELLS_MAX + 1), f"is a DataSet of {CELLS_MAX + 1} cells, at most {CELLS_MAX}"),
    ],
)
def test_data_sets_that_are_none(columns: list[str], types: list[int], rows: list[Any], reason: str) -> None:
    with pytest.raises(NoReadingError, match=reason):
        list(cells(dataset(columns, types, rows)))


def test_the_rebirth_request_is_what_tahu_reads() -> None:
    got = Payload.FromString(rebirth_request(NEW_YEAR_MS))
    (metric,) = got.metrics
    assert (got.timestamp, got.HasField("seq")) == (NEW_YEAR_MS, False)
    assert (metric.name, metric.datatype, metric.boolean_value) == (REBIRTH, TYPES.Boolean, True)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"\x08", "cut off"),
        (b"\x12\x05ab", "cut off"),
        (b"\x65\0\0\0", "cut off"),
        (b"\x08" + b"\x80" * 10 + b"\0", "more than ten bytes"),
        (b"\0\0", "number 0"),
        (b"\x0b", "wire type 3"),
        (b"\x12\x03\x0a\x01\xff", "not valid UTF-8"),
    ],
)
def test_what_is_no_payload(raw: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        parse(raw)


@given(st.binary(max_size=300))
def test_no_bytes_do_harm_and_fields_take_each_byte_once(raw: bytes) -> None:
    try:
        found = fields(raw)
        assert len(found) <= len(raw) // 2
        assert sum(len(value) for _, value in found if isinstance(value, bytes)) <= len(raw)
        for metric in parse(raw).metrics:
            value_of(metric.datatype, metric.tag, metric.value)
    except (WireError, NoReadingError):
        pass


@given(st.data())
def test_a_payload_with_changed_bytes_is_read_or_refused_as_tahus_classes_do(data: st.DataObject) -> None:
    """Nothing else is raised; and what both can read is the same."""
    raw = bytearray(
        payload({"name": "Inputs/A", "alias": 7, "datatype": 3, "timestamp": NEW_YEAR_MS, "int_value": 5}, seq=3)
    )
    for _ in range(data.draw(st.integers(0, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        got, theirs = parse(bytes(raw)), Payload.FromString(bytes(raw))
    except (WireError, DecodeError):
        return
    assert [m.alias or 0 for m in got.metrics] == [m.alias for m in theirs.metrics]
    assert [m.timestamp or 0 for m in got.metrics] == [m.timestamp for m in theirs.metrics]
    assert [m.name or "" for m in got.metrics] == [m.name for m in theirs.metrics]
    assert (got.seq or 0) == theirs.seq


def test_a_deep_and_a_long_payload_are_read_at_once() -> None:
    deep = b""
    for _ in range(2000):
        deep = written(2, deep)
    parse(deep)
    assert len(parse(b"\x12\0" * 100_000).metrics) == 100_000

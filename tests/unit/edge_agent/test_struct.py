"""Format `struct`, against Python's own struct module as the writer, and fractions for what a scale gives."""

import struct
from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Struct
from edge_agent.formats.struct import StructDecoder
from edge_agent.mapping import DeviceSeries
from edge_agent.readings import Readings

NOW = 1_767_225_600_000

SIZES = {"8": "b", "16": "h", "32": "i", "64": "q"}
integers = st.sampled_from(["u8", "u16", "u32", "u64", "i8", "i16", "i32", "i64"])
scales = st.sampled_from([1.0, 0.1, 0.01, 0.001, 0.5, 0.0625, 3.0, 0.3, 1e-9, 1000.0])
offsets = st.sampled_from([0.0, -40.0, 273.15, 0.1, -1e6])


def decode(options: Struct, payload: bytes) -> list[float]:
    readings = Readings()
    series = DeviceSeries("d", {}, lambda s: int(s.metric[1:]))
    assert StructDecoder(series, options)(payload, NOW, readings) is None
    assert readings.series == [*range(len(options.fields))] * (len(readings.series) // len(options.fields))
    return readings.value


@given(
    st.lists(st.tuples(integers, scales, offsets), min_size=1, max_size=5),
    st.sampled_from(["little", "big"]),
    st.data(),
)
def test_a_reading_is_the_float64_nearest_to_scale_times_raw_plus_offset(
    fields: list[tuple[str, float, float]], byte_order: str, data: st.DataObject
) -> None:
    named = [
        {"name": f"f{at}", "type": type_, "scale": scale, "offset": offset}
        for at, (type_, scale, offset) in enumerate(fields)
    ]
    options = Struct.model_validate({"byte_order": byte_order, "fields": named})
    raw = data.draw(st.lists(st.tuples(*(numbers(type_) for type_, _, _ in fields)), min_size=1, max_size=3))
    codes = "".join(SIZES[type_[1:]].upper() if type_[0] == "u" else SIZES[type_[1:]] for type_, _, _ in fields)
    payload = b"".join(struct.pack("<>"[byte_order == "big"] + codes, *record) for record in raw)
    assert list(map(float, decode(options, payload))) == [
        float(Fraction(str(scale)) * number + Fraction(str(offset)))
        for record in raw
        for number, (_, scale, offset) in zip(record, fields, strict=True)
    ]


def numbers(type_: str) -> st.SearchStrategy[int]:
    bits = int(type_[1:])
    return st.integers(0, 2**bits - 1) if type_[0] == "u" else st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1))
def test_floats_are_kept_exactly(values: list[float]) -> None:
    options = Struct.model_validate({"fields": [{"name": "f0", "type": "f32"}, {"name": "f1", "type": "f64"}]})
    payload = b"".join(struct.pack("<fd", value, value / 3) for value in values)
    assert decode(options, payload) == [number for value in values for number in (value, value / 3)]

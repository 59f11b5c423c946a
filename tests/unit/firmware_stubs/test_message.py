"""One message: a JSON object that any parser reads back, with every value to the bit."""

import json
import struct

from hypothesis import given
from hypothesis import strategies as st

from firmware_stubs.message import make

names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(lambda name: name != "ts")
values = st.one_of(st.none(), st.floats(allow_nan=False, allow_infinity=False))


@given(
    device=names,
    ts_ms=st.integers(0, 4_102_444_800_000),
    metrics=st.dictionaries(names, values, max_size=8),
)
def test_the_payload_is_the_values_and_the_time(device: str, ts_ms: int, metrics: dict[str, float | None]) -> None:
    message = make(device, 1.5, ts_ms, metrics)
    read = json.loads(message.payload)
    assert read.pop("ts") == ts_ms
    assert list(read) == list(metrics)
    for name, value in metrics.items():
        assert bits(read[name]) == bits(value)
    assert message.readings == sum(value is not None for value in metrics.values())
    assert (message.device, message.due_s, message.poison) == (device, 1.5, False)


def bits(value: float | None) -> bytes | None:
    return None if value is None else struct.pack("<d", value)


def test_a_message_of_nulls_is_a_message_without_a_reading() -> None:
    assert make("t", 0.0, 1, {"a": None, "b": None}).readings == 0


def test_the_payload_is_small_and_plain() -> None:
    payload = make("t", 0.0, 1_425_164_400_000, {"P_avg": 1278.66, "Ws_avg": None}).payload
    assert payload == b'{"ts":1425164400000,"P_avg":1278.66,"Ws_avg":null}'

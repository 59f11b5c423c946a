"""What every payload format must keep: the cases of its folder, and the contract of `edge_agent.formats`.

A case is a folder `tests/cases/formats/FORMAT/NAME` with a file `payload` and a file `expected.json`:
{"readings": [[metric, value or text, measured_at in ms, quality, unit if any], ...]} or {"refused": reason's
beginning}. A file `mapping.toml` has what the mapping says besides topic and format. Every message arrives at
RECEIVED_AT_MS.
"""

import json
import math
import tomllib
from array import array
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Mapping
from edge_agent.formats import FORMATS, Decode
from edge_agent.mapping import DeviceSeries
from edge_agent.readings import Readings
from telemetry.columns import US_PER_MS, Columns, Series

CASES = Path(__file__).parents[1] / "cases" / "formats"
RECEIVED_AT_MS = 1_767_225_600_000  # 2026-01-01

Reading = tuple[str, float | str, int, int, str]


def cases(format_: str) -> list[Path]:
    return sorted((CASES / format_).iterdir())


def mapping_of(case: Path) -> Mapping:
    options = case / "mapping.toml"
    written = tomllib.loads(options.read_text()) if options.exists() else {}
    return Mapping.model_validate({"format": case.parent.name, **written})


def decode(mapping: Mapping, payload: bytes, into: Columns | None = None) -> list[Reading] | str:
    """The readings that a payload becomes, or the reason of its refusal."""
    known: dict[Series, int] = {}
    columns = Columns() if into is None else into
    before = len(columns)
    series = DeviceSeries("device", mapping.units, lambda s: known.setdefault(s, len(known)))
    readings = Readings()
    reason = FORMATS[mapping.format](series, mapping)(payload, RECEIVED_AT_MS, readings)
    readings.move_to(columns, RECEIVED_AT_MS)
    if reason is not None:
        assert len(columns) == len(columns.value) == before, "refused as a whole"
        assert not known, "what is refused makes no series"
        assert reason.isprintable()
        assert 0 < len(reason) < 400
        return reason
    names = list(known)
    assert len(set(map(len, parallel(columns)))) == 1
    assert set(columns.received_at[before:]) <= {RECEIVED_AT_MS}
    for at in columns.texts:
        assert math.isnan(columns.value[at])
    return [
        (
            names[columns.series[at]].metric,
            columns.texts.get(at, columns.value[at]),
            columns.measured_at[at] + columns.fine.get(at, 0) / US_PER_MS,
            columns.quality[at],
            names[columns.series[at]].unit,
        )
        for at in range(before, len(columns))
    ]


def parallel(columns: Columns) -> "list[array[int] | array[float]]":
    return [columns.series, columns.measured_at, columns.received_at, columns.value, columns.quality]


@pytest.mark.parametrize("case", sorted(CASES.glob("*/*/")), ids=lambda case: f"{case.parent.name}-{case.name}")
def test_case(case: Path) -> None:
    expected = json.loads((case / "expected.json").read_text())
    got = decode(mapping_of(case), (case / "payload").read_bytes())
    if "refused" in expected:
        assert isinstance(got, str)
        assert got.startswith(expected["refused"])
    else:
        assert got == [(*reading, "")[:5] for reading in expected["readings"]]


def test_every_format_has_cases_and_every_folder_a_format() -> None:
    assert {folder.name for folder in CASES.iterdir()} == set(FORMATS)


@pytest.mark.parametrize("format_", FORMATS)
def test_what_came_before_is_left_alone(format_: str) -> None:
    columns = Columns()
    for case in cases(format_):
        before = [list(column)[:] for column in parallel(columns)]
        texts = dict(columns.texts)
        decode(mapping_of(case), (case / "payload").read_bytes(), columns)
        for earlier, column in zip(before, parallel(columns), strict=True):
            assert str(list(column)[: len(earlier)]) == str(earlier)
        assert texts.items() <= columns.texts.items()


def outcome(decoder: Decode, payload: bytes) -> tuple[str | None, list[tuple[object, ...]]]:
    """The reason, or the readings in the order of their series."""
    readings = Readings()
    reason = decoder(payload, RECEIVED_AT_MS, readings)
    assert len({len(c) for c in (readings.series, readings.measured_at, readings.value, readings.quality)}) == 1
    values = [readings.texts.get(at, value) for at, value in enumerate(readings.value)]
    assert set(readings.texts) == {at for at, value in enumerate(readings.value) if math.isnan(value)}
    return reason, sorted(zip(readings.series, readings.measured_at, values, readings.quality, strict=True), key=repr)


@pytest.mark.parametrize("format_", FORMATS)
@given(data=st.data())
def test_what_becomes_of_a_message_does_not_depend_on_those_before_it(format_: str, data: st.DataObject) -> None:
    known: dict[Series, int] = {}
    series = DeviceSeries("device", {}, lambda s: known.setdefault(s, len(known)))
    mapping = mapping_of(data.draw(st.sampled_from(cases(format_))))
    make = FORMATS[format_]
    one = make(series, mapping)
    payloads = [(case / "payload").read_bytes() for case in cases(format_) if mapping_of(case) == mapping]
    some = data.draw(st.lists(st.sampled_from(payloads), min_size=1, max_size=3))
    for payload in data.draw(st.lists(st.sampled_from(some), max_size=10)):
        assert outcome(one, payload) == outcome(make(series, mapping), payload)


@pytest.mark.parametrize("format_", FORMATS)
@given(data=st.data())
def test_no_payload_raises(format_: str, data: st.DataObject) -> None:
    """Random bytes, and the cases' payloads with bytes changed, dropped and doubled."""
    case = data.draw(st.sampled_from(cases(format_)))
    payload = bytearray(data.draw(st.one_of(st.just((case / "payload").read_bytes()), st.binary(max_size=100)))[:2000])
    for _ in range(data.draw(st.integers(0, 4))):
        at = data.draw(st.integers(0, len(payload)))
        piece = data.draw(st.one_of(st.binary(max_size=4), st.just(bytes(payload[at : at + 8]))))
        payload[at : at + data.draw(st.integers(0, 3))] = piece
    decode(mapping_of(case), bytes(payload))


@pytest.mark.parametrize("format_", FORMATS)
def test_deep_and_long_payloads_are_refused_in_time(format_: str) -> None:
    mapping = mapping_of(cases(format_)[0])
    for payload in (
        b"[" * 200_000,
        b'{"a":' * 50_000,
        b'{"a":[' + b"[" * 200_000,
        b" " * 200_000,
        b'{"a":"' * 30_000,
        b"\x81" * 200_000,  # arrays in CBOR, maps in MessagePack
        b"\xa1\x61a" * 50_000,  # maps in CBOR
        b"\x9f" * 200_000,  # arrays of indefinite length
        b"\xd8\x1c" * 100_000,  # tags
        b"\x9b" + b"\xff" * 8,  # 2^64 elements
        b"\xbb" + b"\xff" * 8,
        b"\x7b" + b"\xff" * 8,
        b"\xdd" + b"\xff" * 4,  # 2^32 elements
        b"\xdf" + b"\xff" * 4,
        b"\xdb" + b"\xff" * 4,
    ):
        assert isinstance(decode(mapping, payload), str)

"""The replay of a recording against an independent reading of it, and what it says of a bad file."""

import csv
import json
from collections import Counter
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from firmware_stubs.message import Message
from firmware_stubs.replay import devices, messages
from tests import reference
from tests.pipeline import SAMPLE

TURBINES = ["R80711", "R80721", "R80736", "R80790"]
HEAD = "name,time,P,Q\n"
AT = "2015-03-01T00:00:00+01:00"


def file(tmp_path: Path, text: str | bytes) -> Path:
    path = tmp_path / "some.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def all_of(path: Path, speed: float = 0.0) -> list[Message]:
    return list(messages(path, set(devices(path)), speed))


def readings(of: list[Message]) -> Counter[reference.Value]:
    found: Counter[reference.Value] = Counter()
    for message in of:
        values = json.loads(message.payload)
        at = values.pop("ts")
        found.update((message.device, name, at, value) for name, value in values.items() if value is not None)
    return found


def test_the_sample_is_replayed_reading_by_reading() -> None:
    made = all_of(SAMPLE)
    expected = reference.multiset(SAMPLE)
    assert readings(made) == expected
    assert sum(message.readings for message in made) == expected.total()
    with SAMPLE.open(newline="") as lines:
        rows = list(csv.reader(lines))[1:]
    assert [message.device for message in made] == [row[0] for row in rows], "one message per row, in order"
    nulls = sum(cell == "" for row in rows for cell in row)
    assert sum(list(json.loads(message.payload).values()).count(None) for message in made) == nulls > 1000


def test_rows_of_the_same_device_and_time_stay_apart() -> None:
    keys = Counter((message.device, json.loads(message.payload)["ts"]) for message in all_of(SAMPLE))
    assert sum(count == 2 for count in keys.values()) == 24, "the sample's README says so"


def test_the_devices_share_the_file_without_a_rest() -> None:
    assert devices(SAMPLE) == TURBINES
    parts = [list(messages(SAMPLE, {name}, 0.0)) for name in TURBINES]
    assert all({message.device for message in part} == {name} for name, part in zip(TURBINES, parts, strict=True))
    assert sum(map(readings, parts), Counter()) == reference.multiset(SAMPLE)
    assert list(messages(SAMPLE, {"R0"}, 0.0)) == []


def test_speed_divides_the_recorded_time() -> None:
    """The first row of the file is due at 0, whichever device it is of."""
    with SAMPLE.open(newline="") as lines:
        times = [datetime.fromisoformat(row["Date_time"]) for row in csv.DictReader(lines)]
    for speed in (1.0, 3600.0):
        due = [message.due_s for message in all_of(SAMPLE, speed)]
        assert due == pytest.approx([(at - times[0]).total_seconds() / speed for at in times])
        assert all(a <= b for a, b in pairwise(due)), "the sample is in the order of time"
    assert {message.due_s for message in all_of(SAMPLE, 0.0)} == {0.0}
    alone = list(messages(SAMPLE, {"R80711"}, 3600.0))
    assert [m.due_s for m in alone] == [m.due_s for m in all_of(SAMPLE, 3600.0) if m.device == "R80711"]


def test_a_row_before_the_first_one_is_due_at_once(tmp_path: Path) -> None:
    path = file(tmp_path, f"{HEAD}A,2015-03-01T01:00:00Z,1,\nA,2015-03-01T00:00:00Z,2,\nA,2015-03-01T01:10:00Z,,3\n")
    assert [message.due_s for message in all_of(path, 60.0)] == [0.0, 0.0, 10.0]


def test_quotes_line_ends_empty_lines_and_names_beyond_ascii(tmp_path: Path) -> None:
    path = file(tmp_path, f'{HEAD}"mühle, 1",{AT},1,\r\n\r\n\nB,{AT},,-2.5e-3\n')
    assert [(m.device, m.payload) for m in all_of(path)] == [
        ("mühle, 1", b'{"ts":1425164400000,"P":1.0,"Q":null}'),
        ("B", b'{"ts":1425164400000,"P":null,"Q":-0.0025}'),
    ]
    assert devices(path) == ["B", "mühle, 1"]


BAD: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "must have a header: device, time, and at least one metric"),
    "without a metric": (f"name,time\nA,{AT}\n", "must have a header"),
    "nothing but a header": (HEAD, "has a header and no rows"),
    "a cell too few": (f"{HEAD}A,{AT},1,2\nA,{AT},1\n", "line 3: it has 3 cells, the header has 4"),
    "a cell too many": (f"{HEAD}A,{AT},1,2,3\n", "line 2: it has 5 cells, the header has 4"),
    "a word": (f"{HEAD}A,{AT},1,many\n", "line 2: 'many' must be a number, or empty for none"),
    "NaN": (f"{HEAD}A,{AT},nan,1\n", "line 2: 'nan' must be a number"),
    "infinite": (f"{HEAD}A,{AT},1,1e999\n", "line 2: '1e999' must be a number"),
    "no time": (f"{HEAD}A,yesterday,1,2\n", "line 2: 'yesterday' must be a time with its zone"),
    "no zone": (f"{HEAD}A,2015-03-01T00:00:00,1,2\n", "line 2: '2015-03-01T00:00:00' must be a time with its zone"),
    "no name": (f"{HEAD},{AT},1,2\n", "line 2: '' cannot be a device's name"),
    "a name with a slash": (f"{HEAD}a/b,{AT},1,2\n", "line 2: 'a/b' cannot be a device's name"),
    "a name with a NUL": (f"{HEAD}a\0,{AT},1,2\n", "cannot be a device's name"),
    "a cell without end": (f'{HEAD}A,{AT},1,"2\n' + "x" * 200_000, "field larger than field limit"),
    "not text": (bytes(range(256)) * 8, "is no CSV file: it is not text in UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_is_a_sentence_with_the_line(name: str, tmp_path: Path) -> None:
    text, sentence = BAD[name]
    path = file(tmp_path, text)
    with pytest.raises(ValueError, match=r"some\.csv") as told:
        devices(path)
    assert sentence in str(told.value)
    assert len(str(told.value)) < len(str(path)) + 150


def test_what_was_good_before_the_bad_line_has_been_sent(tmp_path: Path) -> None:
    source = messages(file(tmp_path, f"{HEAD}A,{AT},1,2\nA,{AT},1,x\n"), {"A"}, 0.0)
    assert next(source).readings == 2
    with pytest.raises(ValueError, match="line 3"):
        next(source)


def test_no_file_and_a_directory(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        devices(tmp_path / "none.csv")
    with pytest.raises(IsADirectoryError):
        devices(tmp_path)


@given(data=st.one_of(st.binary(max_size=200), st.text('A1,.\n"-T:Z \r\0é', max_size=80).map(str.encode)))
def test_random_bytes_are_rows_or_a_sentence(data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "random.csv"
    path.write_bytes(data)
    said = ""
    try:
        found = devices(path)
    except ValueError as error:
        found, said = [], str(error)
    assert bool(found) != (str(path) in said)

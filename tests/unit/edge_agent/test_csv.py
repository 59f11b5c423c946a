"""Format `csv`, against Python's own csv module as the writer."""

import csv
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Csv
from edge_agent.formats.csv import CsvDecoder
from edge_agent.mapping import DeviceSeries
from edge_agent.readings import Readings

NOW = 1_767_225_600_000
SECOND = 1000

numbers = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.sampled_from('xy",;\n\t |é'), min_size=1, max_size=5).filter(lambda text: text.strip() != "")
cells = st.none() | numbers | texts


def decode(options: Csv, payload: str) -> str | list[tuple[int, float | str, int]]:
    """(series, value, time): series 0, 1, 2 are a, b, c."""
    readings = Readings()
    series = DeviceSeries("d", {}, lambda s: "abc".index(s.metric))
    reason = CsvDecoder(series, options)(payload.encode(), NOW, readings)
    if reason is not None:
        return reason
    return [
        (id_, readings.texts.get(at, readings.value[at]), readings.measured_at[at])
        for at, id_ in enumerate(readings.series)
    ]


@given(
    st.lists(st.tuples(cells, cells, cells), min_size=1, max_size=4),
    st.sampled_from([",", ";", "\t", "|"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["\r\n", "\n"]),
)
def test_what_is_written_is_read(
    rows: list[tuple[object, ...]], delimiter: str, decimal_comma: bool, header: bool, line_end: str
) -> None:
    decimal_comma = decimal_comma and delimiter != ","
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=line_end)
    if header:
        writer.writerow(["a", "ts", "b", "c"])
    for number, (a, b, c) in enumerate(rows):
        written = [
            str(cell).replace(".", ",") if decimal_comma and isinstance(cell, float) else cell for cell in (a, b, c)
        ]
        writer.writerow([written[0], NOW + number * SECOND, *written[1:]])
    options = {"header": True} if header else {"columns": ("a", "ts", "b", "c")}
    taken = decode(
        Csv.model_validate(
            {"delimiter": delimiter, "decimal_comma": decimal_comma, "time_format": "ms", **options},
        ),
        out.getvalue(),
    )
    assert taken == [
        (id_, cell if isinstance(cell, str) else float(cell), NOW + number * SECOND)  # type: ignore[arg-type]
        for number, row in enumerate(rows)
        for id_, cell in enumerate(row)
        if cell is not None
    ]


@pytest.mark.parametrize(("unit", "per_s"), [("s", 1), ("ms", 1000), ("us", 10**6), ("ns", 10**9)])
@given(at_ms=st.integers(946_684_800_000, 4_102_444_799_999))
def test_times_are_kept_to_the_millisecond(unit: str, per_s: int, at_ms: int) -> None:
    written = f"{at_ms // 1000}.{at_ms % 1000:03}" if unit == "s" else at_ms * per_s // 1000
    options = Csv.model_validate({"columns": ("ts", "a"), "time_format": unit})
    assert decode(options, f"{written},1") == [(0, 1.0, at_ms)]

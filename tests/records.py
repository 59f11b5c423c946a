"""Records for tests: made at random by hypothesis, or numbered so that each tells which one it is.

@given(columns())                 any columns that a decoder may make
numbered(7, 3)                    three records, the numbers 7, 8 and 9
image(left) == image(right)       the same to the bit, NaN payloads and signs of zero included
"""

import struct
from array import array

from hypothesis import strategies as st

from telemetry.columns import DEAD, NAN, US_PER_MS, Columns, DeadLetter, Series

NEW_YEAR_MS = 1_767_225_600_000  # 2026
STORABLE_MS = st.integers(946_684_800_000, 4_102_444_799_999)
"""Times that the tables can hold: the years 2000 to 2099."""
SERIES_MAX = 4
TAGS = '{"line":"2","site":"Werk Ä"}'

Image = tuple[bytes, bytes, bytes, bytes, bytes, dict[int, str], dict[int, DeadLetter], dict[int, int]]
Record = tuple[object, ...]

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
doubles = st.one_of(
    st.floats(), st.binary(min_size=8, max_size=8).map(lambda bits: float(struct.unpack("<d", bits)[0]))
)
fine_times = st.builds(
    lambda offset_ms, us: offset_ms * US_PER_MS + us, st.integers(-(10**12), 10**12), st.integers(0, US_PER_MS - 1)
).filter(bool)
"""What a time has beside its milliseconds, if it has."""
dead_letters = st.builds(DeadLetter, texts, st.binary(max_size=60), texts)


def series_of(id_: int) -> Series:
    """What the series ids of these records stand for; dense from 0, as a spool gives them."""
    return Series(f"device-{id_}", "métrique €", "°C" if id_ % 2 else "", TAGS if id_ >= 2 else "")


@st.composite
def columns(draw: st.DrawFn, records_min: int = 1, records_max: int = 30, at_ms: object = None) -> Columns:
    """Columns of readings, texts and dead letters. at_ms: a strategy for times, default any int64."""
    times = at_ms if isinstance(at_ms, st.SearchStrategy) else st.integers(-(2**63), 2**63 - 1)
    made = Columns()
    has_fine = draw(st.booleans())
    for position in range(draw(st.integers(records_min, records_max))):
        kind = draw(st.sampled_from(["number", "number", "number", "text", "dead"]))
        if kind == "dead":
            made.add_dead(draw(dead_letters), draw(times))
            continue
        made.series.append(draw(st.integers(0, SERIES_MAX - 1)))
        made.measured_at.append(draw(times))
        made.received_at.append(draw(times))
        made.value.append(draw(doubles) if kind == "number" else NAN)
        made.quality.append(draw(st.integers(0, 255)))
        if kind == "text":
            made.texts[position] = draw(texts)
        if has_fine and draw(st.booleans()):
            made.fine[position] = draw(fine_times)
    return made


def numbered(first: int, count: int, blob_bytes: int = 0, blob: bytes = b"") -> Columns:
    """Records first..first+count-1: readings, and every fifth number a text, every seventh a dead letter.

    blob: what the dead letters hold in addition, cut to blob_bytes.
    """
    made = Columns()
    for number in range(first, first + count):
        if number % 7 == 0:
            made.add_dead(DeadLetter("t", b"%d:" % number + blob[:blob_bytes], "r"), NEW_YEAR_MS + number)
            continue
        if number % 5 == 0:
            made.texts[len(made)] = str(number)
        made.series.append(number % SERIES_MAX)
        made.measured_at.append(NEW_YEAR_MS + number)
        made.received_at.append(NEW_YEAR_MS + number)
        made.value.append(NAN if number % 5 == 0 else number / 8)
        made.quality.append(number % 2)
    return made


def image(made: Columns) -> Image:
    """Everything in the columns, comparable to the bit."""
    arrays: list[array[int] | array[float]] = [made.series, made.measured_at, made.received_at, made.value]
    return (*(column.tobytes() for column in arrays), made.quality.tobytes(), made.texts, made.dead, made.fine)  # type: ignore[return-value]  # four, as the list has


def records(made: Columns) -> list[Record]:
    """The columns as one comparable tuple per record; for tests that cut and join."""
    return [
        (
            series,
            made.measured_at[position],
            made.received_at[position],
            struct.pack("<d", made.value[position]),
            made.quality[position],
            made.texts.get(position),
            made.dead.get(position),
        )
        for position, series in enumerate(made.series)
    ]


def letters(made: Columns) -> list[int]:
    """The positions of the dead letters by the series column, which must agree with `dead`."""
    found = [position for position, series in enumerate(made.series) if series == DEAD]
    assert found == sorted(made.dead)
    return found

"""Blocks: every admitted row in exactly one, with its own values, and every block one ClickHouse partition's.

Batches go over the wire's code and back first, so that a row can be compared with what the gateway encoded.
"""

import math
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.admit import Slice
from ingest.blocks import Block, blocks
from ingest.clickhouse.client import INSERT_SETTINGS
from ingest.decode import decode
from ingest.native import encode
from ingest.tables import DEAD_LETTERS, LOSSES, READINGS
from telemetry import wire
from telemetry.columns import US_PER_MS, Columns
from telemetry.tags import pack
from telemetry.wire import ROWS_MAX
from tests.decoded import plain_batch
from tests.native import decode as decode_native
from tests.records import NEW_YEAR_MS, STORABLE_MS, columns, doubles, numbered, series_of

INGESTED_MS = NEW_YEAR_MS + 123
FEBRUARY_MS = NEW_YEAR_MS + 31 * 86_400_000

Row = tuple[object, ...]


@st.composite
def batches(draw: st.DrawFn) -> tuple[wire.Header, Columns]:
    """Records of one spool; their times lie around a turn of the month, or anywhere."""
    at_ms = draw(st.sampled_from([STORABLE_MS, st.integers(FEBRUARY_MS - 3, FEBRUARY_MS + 3)]))
    made = draw(columns(at_ms=at_ms))
    gateway, epoch = draw(st.sampled_from(["g1", "g2"])), draw(st.sampled_from(["e1", "e2"]))
    return wire.Header(gateway, epoch, draw(st.integers(1, 2**61)), len(made)), made


@st.composite
def commits(draw: st.DrawFn) -> list[tuple[wire.Header, Columns, Slice]]:
    """Slices as admission cuts them: some rows of some batches."""
    made = []
    for header, content in draw(st.lists(batches(), min_size=1, max_size=5)):
        batch = decode(wire.encode(header, content, series_of), header.gateway)
        start = draw(st.integers(0, header.count - 1))
        stop = draw(st.integers(start + 1, header.count))
        made.append((header, content, Slice(batch, start, stop)))
    return made


def reading(header: wire.Header, content: Columns, position: int) -> Row:
    """The row that the table readings should get; NaN as text, since it equals nothing."""
    name = series_of(content.series[position])
    value = content.value[position]
    return (
        *(name.device, name.metric),
        *(content.measured_at[position], content.received_at[position], INGESTED_MS),
        *("nan" if math.isnan(value) else value, content.texts.get(position, ""), name.unit),
        *(content.quality[position], header.gateway, header.epoch, header.first_seq + position, name.tags),
        *(content.fine.get(position, 0) % US_PER_MS, content.fine.get(position, 0) // US_PER_MS),
    )


def letter(header: wire.Header, content: Columns, position: int) -> Row:
    source, raw, reason = content.dead[position]
    seq = header.first_seq + position
    return header.gateway, header.epoch, seq, content.received_at[position], INGESTED_MS, source, reason, raw


def rows(block: Block) -> list[Row]:
    """The block's rows, times as ms since 1970 UTC."""
    plain = block.rows.cast(
        pa.schema(
            [
                (column.name, pa.int64() if pa.types.is_timestamp(column.type) else column.type)
                for column in block.rows.schema
            ]
        )
    )
    return [comparable(block, row) for row in plain.to_pylist()]


def comparable(block: Block, row: dict[str, object]) -> Row:
    """With what the columns say that a block does not have because no reading needs them."""
    left_out = {"tags": "", "measured_us": 0, "clock_offset_ms": 0} if block.target.name == "readings" else {}
    values = (row | {name: row.get(name, default) for name, default in left_out.items()}).items()
    ordered = [value for name, value in values if name not in left_out] + [dict(values)[name] for name in left_out]
    return tuple("nan" if isinstance(v, float) and math.isnan(v) else v for v in ordered)


def body(block: Block) -> bytes:
    return b"".join(encode(block.target, block.rows))


def word(name: str, value: object) -> object:
    """A value as the rows have it."""
    if isinstance(value, dict):
        return pack({key.decode(): of_key.decode() for key, of_key in value.items()})
    return value.decode() if isinstance(value, bytes) and name != "raw" else value


def sent(block: Block) -> list[Row]:
    """The rows in what is sent, in the same form."""
    columns = decode_native(body(block))
    assert {name: type_ for name, (type_, _) in columns.items()} == {name: t for name, _, t in block.target.columns}
    return [
        comparable(block, {name: word(name, value) for name, value in zip(columns, row, strict=True)})
        for row in zip(*(values for _, values in columns.values()), strict=True)
    ]


def by_repr(made: list[Row]) -> list[Row]:
    return sorted(made, key=repr)


@settings(deadline=None)
@given(commits())
def test_every_row_is_in_one_block_with_its_own_values(commit: list[tuple[wire.Header, Columns, Slice]]) -> None:
    made = blocks([part for *_, part in commit], INGESTED_MS)
    picked = [(h, c, p) for h, c, part in commit for p in range(part.start, part.stop)]
    readings = [row for block in made if block.target.name == READINGS.name for row in rows(block)]
    assert by_repr(readings) == by_repr([reading(h, c, p) for h, c, p in picked if p not in c.dead])
    letters = [row for block in made if block.target is DEAD_LETTERS for row in rows(block)]
    assert by_repr(letters) == by_repr([letter(h, c, p) for h, c, p in picked if p in c.dead])


@settings(deadline=None)
@given(commits())
def test_a_block_is_one_partition_and_one_native_block_with_the_same_rows(
    commit: list[tuple[wire.Header, Columns, Slice]],
) -> None:
    made = blocks([part for *_, part in commit], INGESTED_MS)
    months = []
    for block in made:
        assert block.rows.schema == block.target.schema
        assert block.rows.num_rows
        assert sent(block) == rows(block)
        if block.target.name == READINGS.name:
            months.append({at.strftime("%Y-%m") for at in block.rows["measured_at"].to_pylist()})
    assert all(len(month) == 1 for month in months)
    assert len(months) == len({month for one in months for month in one}), "and no month has two"
    assert sum(block.target is DEAD_LETTERS for block in made) <= 1


@settings(deadline=None)
@given(commits())
def test_the_same_slices_give_the_same_bytes(commit: list[tuple[wire.Header, Columns, Slice]]) -> None:
    """A retry finds its deduplication token by them."""
    once, again = ([body(block) for block in blocks([part for *_, part in commit], INGESTED_MS)] for _ in range(2))
    assert once == again


@given(doubles)
def test_a_value_keeps_every_bit(value: float) -> None:
    made = Columns()
    made.series.append(0)
    made.measured_at.append(NEW_YEAR_MS)
    made.received_at.append(NEW_YEAR_MS)
    made.value.append(value)
    made.quality.append(0)
    batch = decode(wire.encode(wire.Header("g", "e", 1, 1), made, series_of), "g")
    (block,) = blocks([Slice(batch, 0, 1)], INGESTED_MS)
    assert block.rows["value"].chunk(0).to_numpy().tobytes() == made.value.tobytes()


@pytest.mark.parametrize(
    ("at", "month"),
    [
        (datetime(2000, 1, 1, tzinfo=UTC), 0),
        (datetime(2024, 2, 29, 23, 59, 59, 999_000, tzinfo=UTC), 0),
        (datetime(2024, 3, 1, tzinfo=UTC), 1),
        (datetime(2099, 12, 31, 23, 59, 59, 999_000, tzinfo=UTC), 1),
    ],
)
def test_months_are_cut_in_utc_to_the_millisecond(at: datetime, month: int) -> None:
    times = [at, datetime(2024, 2, 1, tzinfo=UTC) if month == 0 else datetime(2024, 3, 31, tzinfo=UTC)]
    made = numbered(1, 2)
    made.measured_at[0], made.measured_at[1] = (round(time.timestamp() * 1000) for time in times)
    batch = decode(wire.encode(wire.Header("g", "e", 1, 2), made, series_of), "g")
    parts = [block.rows["measured_at"].to_pylist() for block in blocks([Slice(batch, 0, 2)], INGESTED_MS)]
    same = (at.year, at.month) == (times[1].year, times[1].month)
    assert sorted(parts) == ([times] if same else sorted([[times[0]], [times[1]]]))


def test_a_loss_is_a_row_of_its_own_table_cut_as_admitted() -> None:
    batch = plain_batch("g1", "e1", 10, 30, loss=True)
    (block,) = blocks([Slice(batch, 5, 10), Slice(batch, 20, 30)], INGESTED_MS)
    assert block.target is LOSSES
    assert rows(block) == [
        ("g1", "e1", 15, 19, "evicted", NEW_YEAR_MS, INGESTED_MS),
        ("g1", "e1", 30, 39, "evicted", NEW_YEAR_MS, INGESTED_MS),
    ]


def test_nothing_makes_no_block() -> None:
    assert blocks([], INGESTED_MS) == []


def test_targets_come_in_the_order_readings_dead_letters_losses() -> None:
    made = numbered(1, 30)
    batch = decode(wire.encode(wire.Header("g1", "e1", 1, 30), made, series_of), "g1")
    parts = [Slice(plain_batch("g1", "e1", 31, 5, loss=True), 0, 5), Slice(batch, 0, 30)]
    assert [block.target.name for block in blocks(parts, INGESTED_MS)] == ["readings", "dead_letters", "losses"]


def test_the_largest_commit_is_one_block() -> None:
    """rows_max may be ROWS_MAX, and one more batch may have come on top of almost that many."""
    count = 2 * ROWS_MAX - 1
    (block,) = blocks([Slice(plain_batch("g1", "e1", 1, count), 0, count)], INGESTED_MS)
    assert all(len(values) == count for _, values in decode_native(body(block)).values())
    assert count < int(INSERT_SETTINGS["max_insert_block_size"])
    assert count < int(INSERT_SETTINGS["min_insert_block_size_rows"])

"""The body of a spool commit: what goes in comes out, to the bit; what is not a whole body is an error."""

import struct
import zlib

import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent import chunk
from edge_agent.chunk import READING_BYTES
from telemetry.columns import Columns
from tests.records import columns, image, letters, numbered, records


@settings(deadline=None)
@given(columns(records_min=0))
def test_columns_come_back_to_the_bit(made: Columns) -> None:
    assert image(chunk.decode(chunk.encode(made))) == image(made)


@settings(deadline=None)
@given(columns(), st.data())
def test_a_slice_is_the_records_between(made: Columns, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(made)))
    stop = data.draw(st.integers(start, len(made)))
    part = made.slice(start, stop)
    assert records(part) == records(made)[start:stop]
    assert letters(part) == [p - start for p in letters(made) if start <= p < stop]
    joined = made.slice(0, start)
    joined.extend(part)
    joined.extend(made.slice(stop, len(made)))
    assert image(joined) == image(made)
    made.truncate(stop)
    assert image(made) == image(joined.slice(0, stop))


@given(columns())
def test_the_size_of_all_is_the_sum_of_the_sizes_of_each(made: Columns) -> None:
    sizes = [chunk.record_bytes(made, position) for position in range(len(made))]
    assert sum(sizes) == chunk.plain_bytes(made)
    assert min(sizes) >= READING_BYTES


def compressed(plain: bytes) -> list[bytes]:
    """A body in either way."""
    return [chunk.ZSTD + zstd.compress(plain), chunk.DEFLATE + zlib.compress(plain, 1, chunk.DEFLATE_WINDOW)]


def plain_of(made: Columns) -> bytes:
    """What is compressed in a body."""
    body = chunk.encode(made)
    small = body[:1] == chunk.DEFLATE
    return zlib.decompress(body[1:], chunk.DEFLATE_WINDOW) if small else bytes(zstd.decompress(body[1:]))


@pytest.mark.parametrize(("count", "way"), [(1, chunk.DEFLATE), (50, chunk.DEFLATE), (100, chunk.ZSTD)])
def test_either_way_of_compression_is_read(count: int, way: bytes) -> None:
    made = numbered(1, count)
    assert chunk.encode(made)[:1] == way
    for body in compressed(plain_of(made)):
        assert image(chunk.decode(body)) == image(made)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_bytes_that_are_no_body_are_an_error(junk: bytes) -> None:
    for body in (junk, *compressed(b"\xff\xff\xff\x00" + junk)):
        with pytest.raises(Exception):  # noqa: B017, PT011 - any: the spool checks a checksum before it comes here
            chunk.decode(body)


def test_a_body_that_is_compressed_in_another_way_is_an_error() -> None:
    with pytest.raises(AssertionError, match="a chunk's compression 3 is not known"):
        chunk.decode(b"\x03" + chunk.encode(numbered(1, 3))[1:])


@settings(deadline=None)
@given(st.sampled_from([9, 200]), st.data())
def test_a_body_cut_short_is_an_error(count: int, data: st.DataObject) -> None:
    body = chunk.encode(numbered(1, count))
    with pytest.raises(Exception):  # noqa: B017, PT011 - any, as above
        chunk.decode(body[: data.draw(st.integers(0, len(body) - 1))])


@settings(deadline=None)
@given(st.data())
def test_a_body_that_holds_less_than_it_says_is_an_error(data: st.DataObject) -> None:
    """Never fewer records than counted, nor columns of different lengths."""
    cut = plain_of(numbered(1, 9))[: data.draw(st.integers(0, 4 + 9 * READING_BYTES - 1))]
    for body in compressed(cut):
        with pytest.raises((AssertionError, struct.error)):
            chunk.decode(body)


def test_a_dead_letter_behind_the_last_record_is_an_error() -> None:
    plain = plain_of(numbered(1, 9))
    assert plain[:4] == struct.pack("<I", 9)
    for body in compressed(struct.pack("<I", 8) + plain[4:]):
        with pytest.raises(Exception):  # noqa: B017, PT011 - any, as above
            chunk.decode(body)

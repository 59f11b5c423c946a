"""ClickHouse's compressed frames: what goes in comes out, in bounded pieces; what is broken or too large is refused.

That others write and read the same frames is shown by the engine's files and a client in Go (tests/integration).
"""

import struct
from collections.abc import Callable

import pytest
from backports import zstd
from clickhouse_cityhash.cityhash import CityHash128
from hypothesis import given
from hypothesis import strategies as st

from ingest.clickhouse.frames import FRAME_BYTES_MAX, FrameCompressor, FrameDecoder, Room
from ingest.clickhouse.statement import StatementError

MIB = 1024 * 1024


def frame(method: int, data: bytes, plain_bytes: int) -> bytes:
    body = struct.pack("<BII", method, 9 + len(data), plain_bytes) + data
    number = CityHash128(body)
    return struct.pack("<QQ", number >> 64, number & (2**64 - 1)) + body


def decoded(data: bytes, step: int = 1 << 16, room: Room | None = None) -> bytes:
    room = room or Room()
    before = room.left
    decoder = FrameDecoder(room)
    try:
        pieces = [piece for at in range(0, len(data), step) for piece in decoder.feed(data[at : at + step])]
        decoder.end()
    finally:
        decoder.close()
        assert room.left == before, "all of the room is given back"
    assert all(len(piece) <= MIB for piece in pieces)
    return b"".join(pieces)


@given(st.lists(st.binary(max_size=300), max_size=5), st.integers(1, 70))
def test_round_trip_in_any_pieces(parts: list[bytes], step: int) -> None:
    packer = FrameCompressor()
    packed = b"".join(packer.compress(part) for part in parts) + packer.flush()
    assert decoded(packed, step) == b"".join(parts)


def test_a_long_answer_is_cut_into_frames_that_every_client_takes() -> None:
    plain = b"fieldline " * 400_000
    packed = FrameCompressor().compress(plain)
    assert struct.unpack_from("<BII", packed, 16)[2] == MIB
    assert decoded(packed) == plain


@pytest.mark.parametrize(("method", "pack"), [(0x02, bytes), (0x90, zstd.compress)])
def test_the_other_methods(method: int, pack: Callable[[bytes], bytes]) -> None:
    plain = b"a" * 3_000_000
    assert decoded(frame(method, pack(plain), len(plain)) + frame(method, pack(b"b"), 1)) == plain + b"b"


BROKEN = {
    "a wrong checksum": (FrameCompressor().compress(b"abc")[:-1] + b"\0", 40),
    "another method": (frame(0x91, b"abc", 3), 89),
    "no compression at all": (b"INSERT INTO t VALUES (1), (2), (3)", 271),
    "a packed size below the head's": (bytes(16) + struct.pack("<BII", 0x82, 8, 1), 271),
    "a packed size above the limit": (bytes(16) + struct.pack("<BII", 0x82, FRAME_BYTES_MAX + 1, 1), 271),
    "a plain size above the limit": (bytes(16) + struct.pack("<BII", 0x82, 100, FRAME_BYTES_MAX + 1), 271),
    "a size that LZ4 cannot reach": (frame(0x82, b"abc", 3 * 256), 271),
    "an LZ4 frame that holds less": (frame(0x82, b"\x30abc", 9), 271),
    "an LZ4 frame of garbage": (frame(0x82, b"\xff\xff\xff", 9), 271),
    "a ZSTD frame that holds more": (frame(0x90, zstd.compress(bytes(MIB)), 9), 271),
    "a ZSTD frame of garbage": (frame(0x90, b"garbage", 9), 271),
    "a plain frame that holds less": (frame(0x02, b"abc", 4), 271),
    "a body that ends in the middle": (FrameCompressor().compress(b"abc")[:-1], 33),
    "a head that ends in the middle": (bytes(24), 33),
}


@pytest.mark.parametrize(("body", "code"), BROKEN.values(), ids=BROKEN)
def test_what_is_refused(body: bytes, code: int) -> None:
    with pytest.raises(StatementError) as refused:
        decoded(body)
    assert refused.value.code == code
    assert str(refused.value).endswith(".")


def test_unfinished_frames_share_a_room() -> None:
    room = Room(1000)
    first = FrameDecoder(room)
    begun = frame(0x02, bytes(900), 900)[:800]
    assert list(first.feed(begun)) == []
    with pytest.raises(StatementError, match="smaller frames"):
        decoded(frame(0x02, bytes(300), 300), room=room)
    first.close()
    assert decoded(frame(0x02, bytes(300), 300), room=room) == bytes(300)

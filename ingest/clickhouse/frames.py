"""ClickHouse's own compressed frames, which `compress=1` asks for and `decompress=1` brings.

A frame is the CityHash128 (of version 1.0.2, as two little-endian halves) of all that follows, one byte for the
method, the size of what follows the checksum and that of the plain data (uint32 each), and the packed data. A body
is frames one after the other; where they are cut means nothing.

Limits: a frame, packed and plain, `FRAME_BYTES_MAX`; the unfinished frames of all requests together, `Room`.
"""

import struct
from collections.abc import Iterator

import lz4.block
from backports import zstd
from clickhouse_cityhash.cityhash import CityHash128

from ingest.clickhouse.statement import StatementError

FRAME_BYTES_MAX = 64 * 1024**2
ROOM_BYTES_MAX = 256 * 1024**2
_PIECE_BYTES = 1024**2  # as the engine cuts its own
_HASH_BYTES = 16
_HEAD = struct.Struct("<BII")
_NONE, _LZ4, _ZSTD = 0x02, 0x82, 0x90
_LZ4_RATIO_MAX = 255
_HALF = 2**64 - 1


class Room:
    """How many bytes the unfinished frames of all requests may take now."""

    def __init__(self, bytes_max: int = ROOM_BYTES_MAX) -> None:
        self.left = bytes_max


class FrameDecoder:
    """Takes a body apart, piece by piece. Raises StatementError for a frame that is broken or too large."""

    def __init__(self, room: Room) -> None:
        self._room = room
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What the frames that `data` completes hold, in pieces of at most 1 MiB."""
        self._hold(data)
        while (size := self._frame_bytes()) is not None and len(self._held) >= size:
            frame = bytes(memoryview(self._held)[:size])
            del self._held[:size]
            self._room.left += size
            plain = _opened(frame)
            for at in range(0, len(plain), _PIECE_BYTES):
                yield plain[at : at + _PIECE_BYTES]

    def end(self) -> None:
        """To be called after the last byte."""
        if self._held:
            raise StatementError(33, "CANNOT_READ_ALL_DATA", "The body ends in the middle of a compressed frame.")

    def close(self) -> None:
        """Give back the room, whatever has happened."""
        self._room.left += len(self._held)
        self._held = bytearray()

    def _hold(self, data: bytes) -> None:
        if len(data) > self._room.left:
            raise StatementError(
                241,
                "MEMORY_LIMIT_EXCEEDED",
                "The compressed frames that are being received fill this server's room for them."
                " Try again later, or send smaller frames.",
            )
        self._room.left -= len(data)
        self._held += data

    def _frame_bytes(self) -> int | None:
        """The length of the frame that begins here, its checksum included; None while that is not known."""
        if len(self._held) < _HASH_BYTES + _HEAD.size:
            return None
        _, packed, plain = _HEAD.unpack_from(self._held, _HASH_BYTES)
        if packed < _HEAD.size or max(packed, plain) > FRAME_BYTES_MAX:
            raise StatementError(
                271,
                "CANNOT_DECOMPRESS",
                f"A compressed frame states {packed} bytes for {plain}; {_HEAD.size} to {FRAME_BYTES_MAX} are allowed."
                " Send fewer rows at once, or check that the body is compressed at all: decompress=1 says so.",
            )
        return _HASH_BYTES + int(packed)


def _opened(frame: bytes) -> bytes:
    body = memoryview(frame)[_HASH_BYTES:]
    if _checksum(body) != frame[:_HASH_BYTES]:
        raise StatementError(
            40, "CHECKSUM_DOESNT_MATCH", "A compressed frame's checksum does not match: it was damaged on its way."
        )
    method, _, size = _HEAD.unpack_from(body)
    data = body[_HEAD.size :]
    try:
        plain = _unpacked(method, data, size)
    except (RuntimeError, ValueError, lz4.block.LZ4BlockError, zstd.ZstdError) as error:
        raise _broken(f"its data cannot be read: {error}") from error
    if len(plain) != size:
        raise _broken(f"it holds {len(plain)} bytes and states {size}")
    return plain


def _unpacked(method: int, data: memoryview, size: int) -> bytes:
    if method == _LZ4:
        if size > _LZ4_RATIO_MAX * len(data):
            raise _broken(f"{len(data)} bytes cannot hold {size}")
        return bytes(lz4.block.decompress(data, uncompressed_size=size))
    if method == _ZSTD:
        return bytes(zstd.ZstdDecompressor().decompress(data, max_length=size + 1))
    if method == _NONE:
        return bytes(data)
    raise StatementError(
        89, "UNKNOWN_COMPRESSION_METHOD", f"A compressed frame's method is {method:#x}. Use LZ4, ZSTD or none."
    )


def _broken(what: str) -> StatementError:
    return StatementError(271, "CANNOT_DECOMPRESS", f"A compressed frame is broken: {what}.")


def _checksum(body: bytes | memoryview) -> bytes:
    number: int = CityHash128(body)
    return struct.pack("<QQ", number >> 64, number & _HALF)


class FrameCompressor:
    """Packs an answer: each piece at once, in LZ4 frames of at most 1 MiB of plain data."""

    def compress(self, data: bytes) -> bytes:
        """The frames that hold `data`; none for nothing."""
        view = memoryview(data)
        return b"".join(_packed(view[at : at + _PIECE_BYTES]) for at in range(0, len(view), _PIECE_BYTES))

    def flush(self) -> bytes:
        """Nothing is held back."""
        return b""


def stored(text: bytes) -> bytes:
    """A frame that holds a short text as it is: some clients look for an error's text without undoing frames."""
    return _frame(_NONE, text, len(text))


def _packed(plain: memoryview) -> bytes:
    return _frame(_LZ4, bytes(lz4.block.compress(plain, store_size=False)), len(plain))


def _frame(method: int, data: bytes, plain_bytes: int) -> bytes:
    body = _HEAD.pack(method, _HEAD.size + len(data), plain_bytes) + data
    return _checksum(body) + body

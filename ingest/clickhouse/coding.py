"""Content codings of HTTP bodies: gzip, deflate, zstd and lz4 (frame format), piece by piece.

No piece of output exceeds `_PIECE_BYTES_MAX`, however small the input, so that a decompression bomb meets the
receiver's limit before it meets the memory's. Several members or frames in a row are one body.
"""

import zlib
from collections.abc import Callable, Iterator
from typing import Any

import lz4.frame
from backports import zstd

from ingest.clickhouse.statement import StatementError

_PIECE_BYTES_MAX = 1024 * 1024
NOT_CODED = frozenset(("", "identity"))
_GZIP_BITS, _ZLIB_BITS = 31, 15


class Decoder:
    """Undoes one content coding. Raises StatementError for a coding that is unknown and for broken input."""

    def __init__(self, coding: str) -> None:
        self.coding = coding
        if coding in NOT_CODED:
            self._new: Callable[[], Any] | None = None
        elif coding in _DECOMPRESSORS:
            self._new = _DECOMPRESSORS[coding]
        else:
            raise StatementError(
                48,
                "NOT_IMPLEMENTED",
                f"Content-Encoding {coding!r} is not supported. Use gzip, deflate, zstd or lz4.",
            )
        self._inner: Any = None

    def feed(self, data: bytes) -> Iterator[bytes]:
        """What `data` adds to the plain body."""
        if self._new is None:
            yield data
            return
        while data:
            if self._inner is None:
                self._inner = self._new()
            try:
                piece = self._inner.decompress(data, _PIECE_BYTES_MAX)
            except (RuntimeError, ValueError, EOFError, zlib.error, zstd.ZstdError) as error:
                raise self._broken(str(error)) from error
            yield piece
            if self._inner.eof:
                data = self._inner.unused_data or b""
                self._inner = None
            else:
                data = getattr(self._inner, "unconsumed_tail", b"")
                while not data and len(piece) == _PIECE_BYTES_MAX and not self._inner.eof:
                    piece = self._inner.decompress(b"", _PIECE_BYTES_MAX)
                    yield piece

    def end(self) -> None:
        """To be called after the last byte. Raises StatementError when the body is cut off."""
        if self._inner is not None and not self._inner.eof:
            raise self._broken("the body ends in the middle")

    def _broken(self, what: str) -> StatementError:
        return StatementError(354, "ZLIB_INFLATE_FAILED", f"The body is not valid {self.coding}: {what}")


_DECOMPRESSORS: dict[str, Callable[[], Any]] = {
    "gzip": lambda: zlib.decompressobj(_GZIP_BITS),
    "deflate": lambda: zlib.decompressobj(_ZLIB_BITS),
    "zstd": zstd.ZstdDecompressor,
    "lz4": lz4.frame.LZ4FrameDecompressor,
}


class _Lz4:
    """lz4's frame compressor with the two methods that the others have."""

    def __init__(self) -> None:
        self._inner = lz4.frame.LZ4FrameCompressor()
        self._begun = False

    def compress(self, data: bytes) -> bytes:
        begin = b"" if self._begun else self._inner.begin()
        self._begun = True
        return bytes(begin + self._inner.compress(data))

    def flush(self) -> bytes:
        return (b"" if self._begun else bytes(self._inner.begin())) + bytes(self._inner.flush())


_COMPRESSORS: dict[str, Callable[[], Any]] = {
    "zstd": lambda: zstd.ZstdCompressor(level=1),
    "lz4": _Lz4,
    "gzip": lambda: zlib.compressobj(3, zlib.DEFLATED, _GZIP_BITS),
    "deflate": lambda: zlib.compressobj(3, zlib.DEFLATED, _ZLIB_BITS),
}


def choose(accept_encoding: str) -> str | None:
    """The coding to answer in: the first of ours that the client accepts, None for plain."""
    parts = [part.replace(" ", "").split(";") for part in accept_encoding.split(",")]
    accepted = {part[0] for part in parts if "q=0" not in part[1:]}
    return next((coding for coding in _COMPRESSORS if coding in accepted), None)


def compressor(coding: str) -> Any:
    """An object with compress(data) and flush(), both of which return bytes."""
    return _COMPRESSORS[coding]()

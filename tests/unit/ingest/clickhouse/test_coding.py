"""Content codings: what goes in comes out, in bounded pieces; what is broken is refused."""

import gzip
import zlib

import lz4.frame
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from ingest.clickhouse.coding import Decoder, choose, compressor
from ingest.clickhouse.statement import StatementError

CODINGS = ["zstd", "lz4", "gzip", "deflate"]
WHOLE = {"zstd": zstd.compress, "lz4": lz4.frame.compress, "gzip": gzip.compress, "deflate": zlib.compress}
MIB = 1024 * 1024


def decoded(coding: str, data: bytes, step: int = 1 << 16) -> bytes:
    decoder = Decoder(coding)
    pieces = [piece for at in range(0, len(data), step) for piece in decoder.feed(data[at : at + step])]
    decoder.end()
    return b"".join(pieces)


@given(st.sampled_from([*CODINGS, ""]), st.lists(st.binary(max_size=200), max_size=5), st.integers(1, 50))
def test_round_trip_in_any_pieces(coding: str, parts: list[bytes], step: int) -> None:
    if not coding:
        assert decoded(coding, b"".join(parts), step) == b"".join(parts)
        return
    packer = compressor(coding)
    packed = b"".join(packer.compress(part) for part in parts) + packer.flush()
    assert decoded(coding, packed, step) == b"".join(parts)


@pytest.mark.parametrize("coding", ["zstd", "lz4", "gzip"])
def test_several_members_are_one_body(coding: str) -> None:
    assert decoded(coding, WHOLE[coding](b"a" * 100) + WHOLE[coding](b"b")) == b"a" * 100 + b"b"


@pytest.mark.parametrize("coding", CODINGS)
def test_a_bomb_comes_in_small_pieces(coding: str) -> None:
    decoder = Decoder(coding)
    sizes = [len(piece) for piece in decoder.feed(WHOLE[coding](b"\0" * (20 * MIB)))]
    decoder.end()
    assert sum(sizes) == 20 * MIB
    assert max(sizes) <= MIB


@pytest.mark.parametrize("coding", CODINGS)
def test_a_body_that_is_cut_off_is_refused(coding: str) -> None:
    with pytest.raises(StatementError, match="middle"):
        decoded(coding, WHOLE[coding](bytes(range(256)) * 8)[:-3])


@pytest.mark.parametrize("coding", CODINGS)
def test_garbage_is_refused(coding: str) -> None:
    with pytest.raises(StatementError, match=f"not valid {coding}"):
        decoded(coding, b"garbage, and enough of it to fill a header")


def test_unknown_codings_are_refused() -> None:
    with pytest.raises(StatementError, match="br"):
        Decoder("br")


def test_the_best_accepted_coding_is_chosen() -> None:
    assert choose("gzip, deflate, lz4;q=0, zstd;q=0.5") == "zstd"
    assert choose("br, gzip") == "gzip"
    assert choose("br") is None
    assert choose("zstd; q=0") is None

"""The reader of CBOR, on the examples of RFC 8949, Appendix A, and on whatever an encoder may choose to write."""

import contextlib
import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.formats.cbor import cbor_tree
from edge_agent.formats.fields import DEPTH_MAX
from telemetry.errors import FieldlineError

APPENDIX_A: list[tuple[str, object]] = [
    ("00", 0),
    ("01", 1),
    ("0a", 10),
    ("17", 23),
    ("1818", 24),
    ("1864", 100),
    ("1903e8", 1000),
    ("1a000f4240", 1000000),
    ("1b000000e8d4a51000", 1000000000000),
    ("1bffffffffffffffff", 2**64 - 1),
    ("c249010000000000000000", 2.0**64),
    ("3bffffffffffffffff", -(2**64)),
    ("c349010000000000000000", -(2.0**64)),
    ("20", -1),
    ("29", -10),
    ("3863", -100),
    ("3903e7", -1000),
    ("f90000", 0.0),
    ("f98000", -0.0),
    ("f93c00", 1.0),
    ("fb3ff199999999999a", 1.1),
    ("f93e00", 1.5),
    ("f97bff", 65504.0),
    ("fa47c35000", 100000.0),
    ("fa7f7fffff", 3.4028234663852886e38),
    ("fb7e37e43c8800759c", 1.0e300),
    ("f90001", 5.960464477539063e-8),
    ("f90400", 0.00006103515625),
    ("f9c400", -4.0),
    ("fbc010666666666666", -4.1),
    ("f97c00", math.inf),
    ("fa7f800000", math.inf),
    ("fbfff0000000000000", -math.inf),
    ("f4", False),
    ("f5", True),
    ("f6", None),
    ("f7", None),
    ("c074323031332d30332d32315432303a30343a30305a", "2013-03-21T20:04:00Z"),
    ("c11a514b67b0", 1363896240),
    ("c1fb41d452d9ec200000", 1363896240.5),
    ("40", b""),
    ("4401020304", b"\x01\x02\x03\x04"),
    ("60", ""),
    ("6161", "a"),
    ("6449455446", "IETF"),
    ("62225c", '"\\'),
    ("62c3bc", "\u00fc"),
    ("63e6b0b4", "\u6c34"),
    ("64f0908591", "\U00010151"),
    ("80", []),
    ("83010203", [1, 2, 3]),
    ("8301820203820405", [1, [2, 3], [4, 5]]),
    ("98190102030405060708090a0b0c0d0e0f101112131415161718181819", list(range(1, 26))),
    ("a0", {}),
    ("a201020304", {"1": 2, "3": 4}),
    ("a26161016162820203", {"a": 1, "b": [2, 3]}),
    ("826161a161626163", ["a", {"b": "c"}]),
    ("a56161614161626142616361436164614461656145", {"a": "A", "b": "B", "c": "C", "d": "D", "e": "E"}),
    ("5f42010243030405ff", b"\x01\x02\x03\x04\x05"),
    ("7f657374726561646d696e67ff", "streaming"),
    ("9fff", []),
    ("9f018202039f0405ffff", [1, [2, 3], [4, 5]]),
    ("9f01820203820405ff", [1, [2, 3], [4, 5]]),
    ("83018202039f0405ff", [1, [2, 3], [4, 5]]),
    ("83019f0203ff820405", [1, [2, 3], [4, 5]]),
    ("bf61610161629f0203ffff", {"a": 1, "b": [2, 3]}),
    ("826161bf61626163ff", ["a", {"b": "c"}]),
    ("bf6346756ef563416d7421ff", {"Fun": True, "Amt": -2}),
]
REFUSED_OF_APPENDIX_A = [
    "f0",
    "f8ff",
    "d74401020304",
    "d818456449455446",
    "d82076687474703a2f2f7777772e6578616d706c652e636f6d",
]


@pytest.mark.parametrize(("written", "meant"), APPENDIX_A, ids=[written for written, _ in APPENDIX_A])
def test_the_examples_of_the_rfc(written: str, meant: object) -> None:
    assert repr(cbor_tree(bytes.fromhex(written))) == repr(meant)  # by repr: -0.0 is not 0.0, nor 1 True


@pytest.mark.parametrize("written", REFUSED_OF_APPENDIX_A)
def test_what_is_no_data_is_refused(written: str) -> None:
    with pytest.raises(FieldlineError, match=r"supported|no value we know"):
        cbor_tree(bytes.fromhex(written))


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**64), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    st.binary(max_size=30),
)
keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)


def head(major: int, number: int, data: st.DataObject) -> bytes:
    """An initial byte and its argument, of any size that holds the number."""
    sizes = [size for size, limit in ((0, 24), (1, 2**8), (2, 2**16), (4, 2**32), (8, 2**64)) if number < limit]
    size = data.draw(st.sampled_from(sizes))
    if size == 0:
        return bytes([major << 5 | number])
    return bytes([major << 5 | {1: 24, 2: 25, 4: 26, 8: 27}[size]]) + number.to_bytes(size)


def string(major: int, content: bytes, data: st.DataObject) -> bytes:
    return head(major, len(content), data) + content


def encoded(tree: object, data: st.DataObject) -> bytes:
    """Any of the ways to write it."""
    is_indefinite = data.draw(st.booleans())
    match tree:
        case None | bool():
            return {None: b"\xf6", True: b"\xf5", False: b"\xf4"}[tree]
        case int():
            return head(0, tree, data) if tree >= 0 else head(1, -1 - tree, data)
        case float():
            return b"\xfb" + struct.pack(">d", tree)
        case bytes():
            pieces = [tree[:5], tree[5:]]
            if is_indefinite:
                return b"\x5f" + b"".join(string(2, piece, data) for piece in pieces) + b"\xff"
            return string(2, tree, data)
        case str():
            pieces = [tree[:5].encode(), tree[5:].encode()]
            if is_indefinite:
                return b"\x7f" + b"".join(string(3, piece, data) for piece in pieces) + b"\xff"
            return string(3, tree.encode(), data)
        case list():
            items = b"".join(encoded(item, data) for item in tree)
            return b"\x9f" + items + b"\xff" if is_indefinite else head(4, len(tree), data) + items
        case dict():
            items = b"".join(encoded(key, data) + encoded(value, data) for key, value in tree.items())
            return b"\xbf" + items + b"\xff" if is_indefinite else head(5, len(tree), data) + items
    raise AssertionError


@given(trees, st.data())
def test_every_way_to_write_it_is_read(tree: object, data: st.DataObject) -> None:
    written = encoded(tree, data)
    assert repr(cbor_tree(written)) == repr(tree)
    for cut in {0, len(written) // 2, len(written) - 1}:
        with pytest.raises(FieldlineError):
            cbor_tree(written[:cut])
    with pytest.raises(FieldlineError, match="1 bytes follow it"):
        cbor_tree(written + b"\x00")


@given(st.binary(max_size=60))
def test_nothing_else_than_a_reason_is_raised(payload: bytes) -> None:
    with contextlib.suppress(FieldlineError):
        cbor_tree(payload)


@pytest.mark.parametrize("opening", [b"\x81", b"\xa1\x61a", b"\x9f", b"\xbf\x61a", b"\xc1"])
def test_depth_is_limited_also_of_tags(opening: bytes) -> None:
    ending = b"\xff" * DEPTH_MAX if opening[0] in (0x9F, 0xBF) else b""
    assert cbor_tree(opening * DEPTH_MAX + b"\x01" + ending) is not None
    with pytest.raises(FieldlineError, match="nested deeper than 16"):
        cbor_tree(opening * (DEPTH_MAX + 1) + b"\x01" + ending + b"\xff")

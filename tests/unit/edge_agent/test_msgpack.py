"""Our reader of MessagePack against msgspec's, and that a message is the same to both of a topic's ways to read it."""

import math

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Objects
from edge_agent.formats.msgpack import MsgpackDecoder, msgpack_tree
from edge_agent.mapping import DeviceSeries
from edge_agent.readings import Readings
from telemetry.columns import Columns, Series
from telemetry.errors import FieldlineError

NOW = 1_767_225_600_000

keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=10)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.binary(max_size=40),
)
trees = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=20) | st.dictionaries(keys, inner, max_size=20), max_leaves=30
)


@given(trees)
def test_it_reads_what_was_written(tree: object) -> None:
    assert repr(msgpack_tree(msgspec.msgpack.encode(tree))) == repr(tree)


@given(st.binary(max_size=40))
def test_it_reads_what_msgspec_reads_or_gives_a_reason(payload: bytes) -> None:
    try:
        tree = msgpack_tree(payload)
    except FieldlineError:
        return
    theirs = msgspec.msgpack.decode(payload, ext_hook=lambda _code, _data: None)
    if isinstance(tree, bool | str | bytes | None) or (
        isinstance(tree, int | float) and isinstance(theirs, int | float)
    ):
        assert tree == theirs or math.isnan(float(tree or 0))


names = st.sampled_from(["ts", "a", "b", "c"])


@given(st.dictionaries(names, st.one_of(scalars, st.integers(1_767_225_600_000, 1_800_000_000_000)), max_size=4))
def test_a_flat_map_is_the_same_with_and_without_msgspec(fields: dict[str, object]) -> None:
    outcomes = []
    for options in (None, Objects()):
        known: dict[Series, int] = {}
        readings = Readings()
        decode = MsgpackDecoder(DeviceSeries("d", {}, lambda s, known=known: known.setdefault(s, len(known))), options)
        reason = decode(msgspec.msgpack.encode(fields), NOW, readings)
        columns = Columns()
        readings.move_to(columns, NOW)
        told = reason and reason.split(", got ")[0]  # the number behind it may have been rounded to a float64
        outcomes.append((told, list(known), repr(columns)))
    if any(name != "ts" for name in fields):  # else it is refused here, and nothing is left of it there
        assert outcomes[0] == outcomes[1]

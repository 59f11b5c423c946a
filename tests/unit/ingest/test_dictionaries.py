"""Definitions are kept as long as there is room, count for their dictionary only, and cannot be changed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.decode import decode
from ingest.dictionaries import Dictionaries, UndefinedSeriesError
from telemetry import wire
from telemetry.columns import Columns, DeadLetter, Series
from telemetry.errors import WireError
from telemetry.wire import Dictionary, Header
from tests.packed import SECTIONS, ints, packed
from tests.records import SERIES_MAX, columns, series_of

D = Series("d", "m", "u")
KEY = ("g", "e1", "00000001")


def sent(made: Columns, dictionary: Dictionary | None, first_seq: int = 1) -> bytes:
    return wire.encode(Header("g", "e1", first_seq, len(made)), made, series_of, dictionary)


def one(*ids: int) -> Columns:
    made = Columns()
    for id_ in ids:
        made.series.append(id_)
        made.measured_at.append(1_767_225_600_000)
        made.received_at.append(1_767_225_600_000)
        made.value.append(1.5)
        made.quality.append(0)
    return made


@given(st.lists(columns(records_max=8), max_size=8), st.integers(1, SERIES_MAX + 1))
def test_a_batch_is_named_right_or_not_at_all(batches: list[Columns], series_max: int) -> None:
    """With a gateway that takes another dictionary when it is told to, every batch is named at the second attempt."""
    dictionaries, dictionary = Dictionaries(series_max), Dictionary()
    for made in batches:
        try:
            batch = decode(sent(made, dictionary), "g", dictionaries)
        except UndefinedSeriesError:
            dictionary = Dictionary()
            batch = decode(sent(made, dictionary), "g", dictionaries)
        told = [batch.names[i] for i in batch.series if i >= 0]
        own = decode(sent(made, None), "g")
        assert told == [own.names[i] for i in own.series if i >= 0]
        assert len(dictionaries) <= series_max


def test_a_series_is_defined_once() -> None:
    dictionary, dictionaries = Dictionary(), Dictionaries()
    first, again, more = (sent(one(*ids), dictionary) for ids in ((1, 2), (2, 1), (2, 3)))
    assert dictionary.ids == {1, 2, 3}
    assert b"device-1" in first
    assert b"device-" not in again
    assert (b"device-2" in more, b"device-3" in more) == (False, True)
    for payload in (first, again, more):
        decode(payload, "g", dictionaries)
    assert len(dictionaries) == 3


@pytest.mark.parametrize("other", [("h", "e1", "00000001"), ("g", "e2", "00000001"), ("g", "e1", "00000002")])
def test_definitions_count_for_their_dictionary_only(other: tuple[str, str, str]) -> None:
    dictionaries = Dictionaries()
    dictionaries.names(KEY, [7], {7: D})
    with pytest.raises(UndefinedSeriesError) as raised:
        dictionaries.names(other, [7], {})
    assert (*raised.value.key, raised.value.dictionary) == other
    assert dictionaries.names(KEY, [7], {}) == [D]
    another = Series("another", "m", "u")
    assert dictionaries.names(other, [7], {7: another}) == [another]
    assert dictionaries.names(KEY, [7], {}) == [D]


def test_a_definition_cannot_be_changed() -> None:
    dictionaries = Dictionaries()
    dictionaries.names(KEY, [7], {7: D})
    with pytest.raises(WireError, match="contradicts what dictionary 00000001 has said"):
        dictionaries.names(KEY, [7, 8], {7: Series("another", "m", "u"), 8: D})
    with pytest.raises(UndefinedSeriesError):
        dictionaries.names(KEY, [8], {})
    assert dictionaries.names(KEY, [7], {7: D}) == [D]
    assert len(dictionaries) == 1


def test_the_dictionaries_that_were_not_used_for_the_longest_time_go_first() -> None:
    dictionaries = Dictionaries(series_max=4)
    keys = [("g", "e1", f"{number:08x}") for number in range(3)]
    dictionaries.names(keys[0], [1, 2], {1: D, 2: D})
    dictionaries.names(keys[1], [1, 2], {1: D, 2: D})
    dictionaries.names(keys[0], [1], {})
    dictionaries.names(keys[2], [1], {1: D})
    assert len(dictionaries) == 3
    assert dictionaries.names(keys[0], [1, 2], {}) == [D, D]
    with pytest.raises(UndefinedSeriesError):
        dictionaries.names(keys[1], [1], {})


def test_a_dictionary_larger_than_the_limit_names_its_batch_and_is_forgotten() -> None:
    dictionaries = Dictionaries(series_max=2)
    assert dictionaries.names(KEY, [1, 2, 3], {1: D, 2: D, 3: D}) == [D, D, D]
    assert len(dictionaries) == 0


def test_a_batch_that_is_refused_defines_nothing() -> None:
    dictionaries = Dictionaries()
    known = {"flags": bytes([wire.DICTIONARY]), "dictionary": bytes.fromhex(KEY[2])}
    with pytest.raises(WireError, match="behind its end"):
        decode(packed("g", **known, dead=b"!"), "g", dictionaries)
    assert len(dictionaries) == 0
    decode(packed("g", **known), "g", dictionaries)
    assert len(dictionaries) == 1
    mention = dict.fromkeys(("names", "defined"), b"") | {"definitions": b"\0"}
    assert decode(packed("g", **known, **mention), "g", dictionaries).names == [D]
    with pytest.raises(UndefinedSeriesError):
        decode(packed("g", **known, **mention, ids=ints(1)), "g", dictionaries)
    assert SECTIONS["ids"] != ints(1)


def test_dead_letters_alone_need_no_dictionary() -> None:
    dictionaries = Dictionaries()
    made = Columns()
    made.add_dead(DeadLetter("t", b"raw", "why"), 1)
    assert decode(sent(made, Dictionary()), "g", dictionaries).names == []
    assert len(dictionaries._known) == 0

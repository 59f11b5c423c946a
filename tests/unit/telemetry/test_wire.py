"""What telemetry.wire encodes on the gateway, ingest.decode reads in the cloud: the same to the bit."""

import json
import os
import struct

import numpy as np
import pytest
from backports import zstd
from hypothesis import given, settings
from hypothesis import strategies as st

from ingest.decode import SEQ_MAX, SERIES_TEXT_CHARS_MAX, Batch, decode
from telemetry import wire
from telemetry.columns import DEAD, Columns, DeadLetter, Series
from telemetry.errors import WireError
from telemetry.records import Loss
from telemetry.wire import PLAIN_BYTES_MAX, ROWS_MAX, WIRE_BYTES_MAX, Header
from tests.packed import opened
from tests.records import NEW_YEAR_MS, STORABLE_MS, columns, numbered, series_of, texts

first_seqs = st.integers(1, 2**61)
names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", fullmatch=True)
reasons = texts.map(lambda text: text.replace("\0", ""))  # our own sentences, in Arrow metadata, which ends at a NUL


def travel(made: Columns, first_seq: int = 1) -> Batch:
    header = Header("g", "e", first_seq, len(made))
    return decode(wire.encode(header, made, series_of), "g")


@settings(deadline=None, max_examples=150)
@given(columns(at_ms=STORABLE_MS), first_seqs, names, names)
def test_records_arrive_as_they_left(made: Columns, first_seq: int, gateway: str, epoch: str) -> None:
    header = Header(gateway, epoch, first_seq, len(made))
    batch = decode(wire.encode(header, made, series_of), gateway)
    assert batch.header == header
    assert batch.loss is None
    assert [None if s == DEAD else batch.names[s] for s in batch.series] == [
        None if s == DEAD else series_of(s) for s in made.series
    ]
    assert batch.measured_at.tobytes() == made.measured_at.tobytes()
    assert batch.received_at.tobytes() == made.received_at.tobytes()
    assert batch.value.tobytes() == made.value.tobytes()
    assert batch.quality.tobytes() == made.quality.tobytes()
    assert batch.texts == made.texts
    assert batch.dead == made.dead


@pytest.mark.parametrize(
    "bits",
    [0x7FF8_0000_0000_0000, 0xFFF8_0000_0000_0001, 0x7FF0_0000_0000_0001, 0x7FF0 << 48, 0xFFF0 << 48, 1 << 63, 1],
    ids=["nan", "negative nan with payload", "signalling nan", "inf", "-inf", "-0", "smallest"],
)
def test_every_bit_pattern_of_a_value_arrives(bits: int) -> None:
    made = numbered(1, 1)
    made.value[0] = struct.unpack("<d", struct.pack("<Q", bits))[0]
    assert travel(made).value.view(np.uint64).tolist() == [bits]


def test_an_empty_text_is_a_text_and_not_a_number() -> None:
    made = numbered(1, 3)
    made.texts = {1: ""}
    assert travel(made).texts == {1: ""}


@pytest.mark.parametrize("letter", [DeadLetter("", b"", ""), DeadLetter("t/é", b"\x00\xff" * 9, "it's €\n")])
def test_a_batch_of_one_dead_letter_has_no_series(letter: DeadLetter) -> None:
    made = Columns()
    made.add_dead(letter, NEW_YEAR_MS)
    batch = travel(made)
    assert (batch.dead, batch.names, batch.series.tolist()) == ({0: letter}, [], [DEAD])


def test_only_the_series_that_are_used_travel() -> None:
    made = numbered(1, 4)
    made.series[:] = type(made.series)("i", [2**31 - 1, 7, 7, 7])
    known = {2**31 - 1: Series("a", "m", "u"), 7: Series("b", "m", "")}
    batch = decode(wire.encode(Header("g", "e", 1, 4), made, known.__getitem__), "g")
    assert batch.names == [known[7], known[2**31 - 1]]
    assert batch.series.tolist() == [1, 0, 0, 0]


@settings(deadline=None)
@given(reasons, st.integers(1, 2**61), st.integers(1, 2**61), STORABLE_MS)
def test_a_loss_arrives_as_it_left(reason: str, first_seq: int, count: int, declared_at: int) -> None:
    header = Header("g", "e", first_seq, count)
    batch = decode(wire.encode_loss(header, reason, declared_at), "g")
    assert batch.loss == Loss(first_seq, first_seq + count - 1, reason, declared_at)
    assert len(batch.series) == 0


@settings(deadline=None)
@given(columns(at_ms=STORABLE_MS, records_max=5), st.data())
def test_a_time_that_cannot_be_stored_costs_its_reading_only(made: Columns, data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(made) - 1))
    outside = [-(2**63), -1, 0, 946_684_799_999, 4_102_444_800_000, 2**63 - 1]
    made.measured_at[position] = at = data.draw(st.sampled_from(outside))
    batch = travel(made)
    letter = batch.dead.pop(position)
    if position not in made.dead:
        assert f"{at} ms since 1970" in letter.reason
        assert batch.series[position] == DEAD
    assert batch.dead == {p: kept for p, kept in made.dead.items() if p != position}
    assert batch.texts == {p: text for p, text in made.texts.items() if p != position}


@settings(deadline=None, max_examples=300)
@given(
    st.binary(max_size=200), st.sampled_from(["as it is", "a frame", "a format", "a checksum", "a body", "a zstd body"])
)
def test_bytes_that_are_no_batch_are_a_sentence(junk: bytes, behind: str) -> None:
    head = bytes([0]) + b"\x01e\x01\x05"
    payload = {
        "as it is": junk,
        "a frame": zstd.compress(junk),
        "a format": bytes([wire.VERSION]) + junk,
        "a checksum": wire.seal("g", junk),
        "a body": wire.seal("g", head + junk),
        "a zstd body": wire.seal("g", bytes([wire.ZSTD]) + head[1:] + zstd.compress(junk)),
    }[behind]
    with pytest.raises(WireError):
        decode(payload, "g")


@settings(deadline=None, max_examples=600)
@given(columns(at_ms=STORABLE_MS, records_max=12) | st.just(None), st.data())
def test_a_damaged_batch_is_a_sentence_or_still_a_batch(made: Columns | None, data: st.DataObject) -> None:
    """Damage under a right checksum, as a hostile sender makes it. Never another exception."""
    if made is None:
        content = bytearray(opened(wire.encode_loss(Header("g", "e", 1, 40), "evicted", NEW_YEAR_MS)))
    else:
        content = bytearray(opened(wire.encode(Header("g", "e", 1, len(made)), made, series_of)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=9))
        if not content:
            break
    try:
        batch = decode(wire.seal("g", bytes(content)), "g")
    except WireError:
        return
    assert len(batch.series) == (0 if batch.loss else batch.header.count)
    assert all(0 <= position < len(batch.series) for position in (*batch.texts, *batch.dead))
    assert set(batch.series[batch.series != DEAD].tolist()) <= set(range(len(batch.names)))
    assert set(np.flatnonzero(batch.series == DEAD).tolist()) == set(batch.dead)


@given(st.integers(1, 2**40), st.integers(0, 7))
def test_a_damaged_byte_is_noticed(place: int, bit: int) -> None:
    payload = bytearray(wire.encode(Header("g", "e", 1, 40), numbered(1, 40), series_of))
    payload[place % len(payload)] ^= 1 << bit
    with pytest.raises(WireError, match=r"checksum is wrong|no format that this ingest reads"):
        decode(bytes(payload), "g")


def test_a_batch_of_another_gateway_is_refused() -> None:
    with pytest.raises(WireError, match="not of 'h', on whose topic it came"):
        decode(wire.encode(Header("g", "e", 1, 1), numbered(1, 1), series_of), "h")


def test_numbers_wrap_as_they_did_when_they_were_taken_apart() -> None:
    """The steps from one of these times to the next have 65 bits."""
    made = numbered(1, 4)
    made.measured_at[:] = type(made.measured_at)("q", [-(2**63), 2**63 - 1, 0, -(2**63)])
    made.received_at[:] = type(made.received_at)("q", [2**63 - 1, -(2**63), 2**63 - 1, 0])
    batch = travel(made)
    assert batch.measured_at.tolist() == made.measured_at.tolist()
    assert batch.received_at.tolist() == [4_102_444_799_999, 0, 4_102_444_799_999, 0]


def test_one_message_a_second_takes_fewer_bytes_than_its_json() -> None:
    """A live batch of four readings, once its series are defined."""
    message = {"ts": NEW_YEAR_MS, "temperature": 21.53, "humidity": 55.1, "pressure": 1013.25, "battery": 3.71}
    made = Columns()
    for id_, value in enumerate(list(message.values())[1:]):
        made.series.append(id_)
        made.measured_at.append(NEW_YEAR_MS)
        made.received_at.append(NEW_YEAR_MS + 23)
        made.value.append(value)
        made.quality.append(0)
    header = Header("farm-7", "0123456789abcdef", 1_000_000, 4)
    known = wire.Dictionary("00000001", {0, 1, 2, 3})
    payload = wire.encode(header, made, lambda id_: Series("dev-1", list(message)[id_ + 1], ""), known)
    assert len(payload) <= 57 < len(json.dumps(message)) * 0.7


@pytest.mark.parametrize(
    "header",
    [Header("g", "e", 0, 3), Header("g", "e", SEQ_MAX - 1, 3), Header("g g", "e", 1, 3), Header("g", "", 1, 3)],
)
def test_a_header_that_cannot_be_is_refused(header: Header) -> None:
    with pytest.raises(WireError, match=r"out of range|not a name"):
        decode(wire.encode(header, numbered(1, 3), series_of), header.gateway)


def test_rows_are_limited() -> None:
    one, rows = numbered(1, 1), ROWS_MAX + 1
    made = Columns(
        one.series * rows, one.measured_at * rows, one.received_at * rows, one.value * rows, one.quality * rows
    )
    with pytest.raises(WireError, match=f"out of range: {ROWS_MAX + 1} from 1 on"):
        travel(made)
    made.truncate(ROWS_MAX)
    assert len(travel(made).series) == ROWS_MAX


def test_compressed_bytes_are_limited() -> None:
    made = Columns()
    made.add_dead(DeadLetter("t", os.urandom(WIRE_BYTES_MAX), "r"), NEW_YEAR_MS)
    with pytest.raises(WireError, match=f"the limit is {WIRE_BYTES_MAX}"):
        travel(made)


def test_decompressed_bytes_are_limited_before_they_are_there() -> None:
    bomb = zstd.compress(bytes(PLAIN_BYTES_MAX + 1))
    assert len(bomb) < WIRE_BYTES_MAX
    with pytest.raises(WireError, match=f"longer than {PLAIN_BYTES_MAX} bytes"):
        decode(bomb, "g")


@pytest.mark.parametrize("length", [SERIES_TEXT_CHARS_MAX, SERIES_TEXT_CHARS_MAX + 1])
def test_the_names_of_a_series_are_limited(length: int) -> None:
    payload = wire.encode(Header("g", "e", 1, 1), numbered(1, 1), lambda _: Series("d", "é" * length, ""))
    if length > SERIES_TEXT_CHARS_MAX:
        with pytest.raises(WireError, match="longer than 256 characters"):
            decode(payload, "g")
    else:
        assert decode(payload, "g").names[0].metric == "é" * length


def test_a_header_and_its_rows_must_agree() -> None:
    with pytest.raises(AssertionError):
        wire.encode(Header("g", "e", 1, 2), numbered(1, 3), series_of)


def test_tags_cost_their_definition_once_and_nothing_where_there_are_none() -> None:
    """The flag is in the byte behind the checksum."""
    made, header = numbered(1, 100), Header("g", "e", 1, 100)

    def encoded(tags: str, dictionary: wire.Dictionary | None = None) -> bytes:
        return wire.encode(header, made, lambda id_: Series(f"d{id_}", "m", "u", tags), dictionary)

    plain, tagged = encoded(""), encoded('{"site":"plant-7"}')
    assert (plain[5] & wire.TAGS, tagged[5] & wire.TAGS) == (0, wire.TAGS)
    assert {name.tags for name in decode(tagged, "g").names} == {'{"site":"plant-7"}'}
    known = wire.Dictionary(), wire.Dictionary()
    for _ in range(2):
        later = encoded("", known[0]), encoded('{"site":"plant-7"}', known[1])
    assert later[1][5] & wire.TAGS == 0
    assert len(later[1]) == len(later[0])


@pytest.mark.parametrize("tags", ["site", '{"b":"x","a":"y"}', '{"site":""}', "{}"])
def test_what_are_no_tags_is_refused(tags: str) -> None:
    payload = wire.encode(Header("g", "e", 1, 1), numbered(1, 1), lambda _: Series("d", "m", "", tags))
    with pytest.raises(WireError, match="has a series whose tags cannot be taken: the tag"):
        decode(payload, "g")

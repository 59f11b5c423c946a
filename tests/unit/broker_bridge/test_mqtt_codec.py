from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker_bridge.mqtt import codec, encode
from broker_bridge.mqtt.codec import Connack, Decoder, Pingresp, ProtocolError, Received, Suback, Unsuback

PACKET_BYTES_MAX, KEEP_BYTES = 300, 20
topics = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=30)
packet_ids = st.integers(1, 65535)


@dataclass(frozen=True)
class Sent:
    topic: str
    payload: bytes = field(repr=False)
    qos: int
    packet_id: int
    dup: bool
    retain: bool

    def encoded(self) -> bytes:
        return encode.publish(
            self.topic,
            self.payload,
            qos=self.qos,
            packet_id=self.packet_id,
            dup=self.dup,
            retain=self.retain,
        )


payloads = st.binary(max_size=40) | st.integers(0, 5000).map(bytes)
publishes = st.builds(Sent, topics, payloads, st.integers(0, 1), packet_ids, st.booleans(), st.booleans())


def decode(stream: bytes, cuts: list[int] = []) -> Received:  # noqa: B006 - never changed
    """Everything the stream holds, fed in pieces."""
    decoder = Decoder(PACKET_BYTES_MAX, KEEP_BYTES)
    total = Received()
    for start, stop in pairwise([0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]):
        part = decoder.feed(stream[start:stop])
        offset = len(total.messages)
        total.messages.topics += part.messages.topics
        total.messages.payloads += part.messages.payloads
        total.messages.packet_ids += part.messages.packet_ids
        total.messages.redelivered |= {offset + index for index in part.messages.redelivered}
        total.messages.retained |= {offset + index for index in part.messages.retained}
        total.messages.oversized |= {offset + index: n for index, n in part.messages.oversized.items()}
        total.pubacks += part.pubacks
        total.controls += part.controls
    return total


@given(st.lists(publishes | packet_ids, max_size=12), st.lists(st.integers(0, 3000), max_size=30))
@example([Sent("t", bytes(5000), 1, 7, dup=True, retain=True), Sent("t", b"x", 1, 8, dup=False, retain=False)], [])
def test_what_was_encoded_is_decoded_in_any_cut(sent: list[Sent | int], cuts: list[int]) -> None:
    stream = b"".join(s.encoded() if isinstance(s, Sent) else encode.pubacks([s]) for s in sent)
    received = decode(stream, cuts)
    published = [s for s in sent if isinstance(s, Sent)]
    long = {i for i, s in enumerate(published) if len(s.encoded()) > PACKET_BYTES_MAX}
    messages = received.messages
    assert messages.topics == [s.topic for s in published]
    assert messages.payloads == [s.payload[:KEEP_BYTES] if i in long else s.payload for i, s in enumerate(published)]
    assert messages.packet_ids == [s.packet_id if s.qos else 0 for s in published]
    assert messages.redelivered == {i for i, s in enumerate(published) if s.dup and s.qos}
    assert messages.retained == {i for i, s in enumerate(published) if s.retain}
    assert messages.oversized == {i: len(published[i].payload) for i in long}
    assert received.pubacks == [s for s in sent if isinstance(s, int)]


@given(st.binary(max_size=400), st.lists(st.integers(0, 400), max_size=5))
def test_garbage_is_an_error_or_nothing(garbage: bytes, cuts: list[int]) -> None:
    with suppress(ProtocolError):
        decode(garbage, cuts)


@given(st.lists(publishes, min_size=1, max_size=4), st.data())
def test_a_damaged_stream_is_an_error_or_other_messages(sent: list[Sent], data: st.DataObject) -> None:
    stream = bytearray(b"".join(s.encoded() for s in sent))
    stream[data.draw(st.integers(0, len(stream) - 1))] ^= data.draw(st.integers(1, 255))
    with suppress(ProtocolError):
        decode(bytes(stream), data.draw(st.lists(st.integers(0, len(stream)), max_size=4)))


@pytest.mark.parametrize(
    ("packet", "control"),
    [
        ("20 02 00 00", Connack(session_present=False, code=0)),
        ("20 02 01 00", Connack(session_present=True, code=0)),
        ("20 02 00 05", Connack(session_present=False, code=5)),
        ("90 04 01 02 01 80", Suback(0x0102, b"\x01\x80")),
        ("b0 02 00 0a", Unsuback(10)),
        ("d0 00", Pingresp()),
        ("d0 80 00", Pingresp()),  # a length in more bytes than it needs
    ],
)
def test_control_packets(packet: str, control: object) -> None:
    raw = bytes.fromhex(packet)
    assert decode(raw, list(range(len(raw)))).controls == [control]


@pytest.mark.parametrize(
    ("packet", "rule"),
    [
        ("34 05 00 01 74 00 01", "3.3.1.2"),  # QoS 2
        ("36 05 00 01 74 00 01", "3.3.1.2"),
        ("32 05 00 01 74 00 00", "2.3.1"),  # packet id 0
        ("32 04 00 01 74 00", "3.3.2"),
        ("30 01 00", "3.3.2"),
        ("30 00", "3.3.2"),
        ("32 05 00 09 74 00 01", "3.3.2"),
        ("32 ff ff ff ff 01", "2.2.3"),
        ("d0 ff ff ff ff", "2.2.3"),
        ("20 02 02 00", "2.2"),
        ("20 03 00 00 00", "2.2"),
        ("21 02 00 00", "2.2"),
        ("90 02 00 01", "2.2"),
        ("40 03 00 01 00", "2.2"),
        ("62 02 00 01", "2.2"),  # PUBREL: only after QoS 2
        ("c0 00", "2.2"),  # PINGREQ is the client's
        ("f0 00", "2.2"),
        ("00 00", "2.2"),
    ],
)
def test_what_no_broker_may_send_names_the_rule(packet: str, rule: str) -> None:
    with pytest.raises(ProtocolError, match=rf"MQTT 3\.1\.1, {rule}"):
        decode(bytes.fromhex(packet))


def test_a_long_packet_that_is_no_message_is_refused_before_it_came() -> None:
    with pytest.raises(ProtocolError, match="type 9 has 268435460 bytes"):
        decode(bytes.fromhex("90 ff ff ff 7f"))


def test_the_rest_of_a_long_message_is_not_kept() -> None:
    decoder = Decoder(PACKET_BYTES_MAX, KEEP_BYTES)
    stream = Sent("a/b", bytes(range(256)) * 4096, 1, 9, dup=False, retain=False).encoded()
    for start in range(0, len(stream) - 1, 1000):
        assert not decoder.feed(stream[start : min(start + 1000, len(stream) - 1)]).messages.topics
        assert sum(map(len, decoder._parts)) <= PACKET_BYTES_MAX + 1000
    messages = decoder.feed(stream[-1:]).messages
    assert messages.payloads == [bytes(range(KEEP_BYTES))]
    assert messages.oversized == {0: 256 * 4096}


def test_a_forbidden_topic_is_taken_so_that_it_is_not_redelivered_for_ever() -> None:
    raw = [b"a\xff", b"a\0b", b"a/+", b""]
    stream = b"".join(b"\x32" + bytes([4 + len(t)]) + encode._binary(t) + b"\0\1" for t in raw)
    assert decode(stream).messages.topics == ["a\\xff", "a\\x00b", "a/+", ""]


def test_the_cache_of_topics_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "TOPICS_MAX", 10)
    decoder = Decoder(PACKET_BYTES_MAX, KEEP_BYTES)
    for number in range(100):
        assert decoder.feed(encode.publish(f"t/{number}", b"", packet_id=1)).messages.topics == [f"t/{number}"]
        assert len(decoder._topics) <= 10


@given(st.lists(packet_ids, max_size=50))
def test_pubacks(ids: list[int]) -> None:
    assert encode.pubacks(ids) == b"".join(b"\x40\x02" + packet_id.to_bytes(2, "big") for packet_id in ids)


def test_encoded_bytes() -> None:
    will = encode.Will("w", b"gone", qos=1, retain=True)
    assert encode.connect("me", 60, clean_session=False, username="u", password="p", will=will) == (
        b"\x10\x1d\x00\x04MQTT\x04\xec\x00\x3c\x00\x02me\x00\x01w\x00\x04gone\x00\x01u\x00\x01p"
    )
    assert encode.connect("", 0, clean_session=True) == b"\x10\x0c\x00\x04MQTT\x04\x02\x00\x00\x00\x00"
    assert encode.subscribe(10, [("a/+", 1), ("b", 0)]) == b"\x82\x0c\x00\x0a\x00\x03a/+\x01\x00\x01b\x00"
    assert encode.unsubscribe(10, ["a/#"]) == b"\xa2\x07\x00\x0a\x00\x03a/#"
    assert encode.publish("t", b"p", packet_id=258, dup=True) == b"\x3a\x06\x00\x01t\x01\x02p"


@pytest.mark.parametrize(
    "write",
    [
        lambda: encode.publish("", b"", packet_id=1),
        lambda: encode.publish("a/+", b"", packet_id=1),
        lambda: encode.publish("a\0", b"", packet_id=1),
        lambda: encode.publish("\ud800", b"", packet_id=1),
        lambda: encode.publish("t" * 65536, b"", packet_id=1),
        lambda: encode.publish("t", b""),
        lambda: encode.connect("", 5, clean_session=False),
        lambda: encode.connect("me", 5, clean_session=True, password="p"),
        lambda: encode.subscribe(1, [("a\0", 1)]),
    ],
)
def test_what_the_standard_forbids_is_not_written(write: object) -> None:
    with pytest.raises(ProtocolError, match=r"\.$"):
        write()  # type: ignore[operator]

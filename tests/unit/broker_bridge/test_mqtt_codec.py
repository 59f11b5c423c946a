import re
from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from broker_bridge.mqtt import codec, encode, packets, properties
from broker_bridge.mqtt.codec import Decoder, Received
from broker_bridge.mqtt.controls import Connack, Disconnect, Pingresp, Puback, Suback, Unsuback
from broker_bridge.mqtt.packets import ProtocolError, Version

VERSIONS: tuple[Version, ...] = ("3.1.1", "5")
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

    def encoded(self, version: Version = "3.1.1") -> bytes:
        return encode.publish(
            self.topic,
            self.payload,
            qos=self.qos,
            packet_id=self.packet_id,
            dup=self.dup,
            retain=self.retain,
            version=version,
        )


payloads = st.binary(max_size=40) | st.integers(0, 5000).map(bytes)
publishes = st.builds(Sent, topics, payloads, st.integers(0, 1), packet_ids, st.booleans(), st.booleans())


def decode(stream: bytes, cuts: list[int] = [], version: Version = "3.1.1") -> Received:  # noqa: B006 - never changed
    """Everything the stream holds, fed in pieces."""
    decoder = Decoder(PACKET_BYTES_MAX, KEEP_BYTES, version)
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


@pytest.mark.parametrize("version", VERSIONS)
@given(st.lists(publishes | packet_ids, max_size=12), st.lists(st.integers(0, 3000), max_size=30))
@example([Sent("t", bytes(5000), 1, 7, dup=True, retain=True), Sent("t", b"x", 1, 8, dup=False, retain=False)], [])
def test_what_was_encoded_is_decoded_in_any_cut(version: Version, sent: list[Sent | int], cuts: list[int]) -> None:
    stream = b"".join(s.encoded(version) if isinstance(s, Sent) else encode.pubacks([s]) for s in sent)
    received = decode(stream, cuts, version)
    published = [s for s in sent if isinstance(s, Sent)]
    long = {i for i, s in enumerate(published) if len(s.encoded(version)) > PACKET_BYTES_MAX}
    messages = received.messages
    assert messages.topics == [s.topic for s in published]
    assert messages.payloads == [s.payload[:KEEP_BYTES] if i in long else s.payload for i, s in enumerate(published)]
    assert messages.packet_ids == [s.packet_id if s.qos else 0 for s in published]
    assert messages.redelivered == {i for i, s in enumerate(published) if s.dup and s.qos}
    assert messages.retained == {i for i, s in enumerate(published) if s.retain}
    assert messages.oversized == {i: len(published[i].payload) for i in long}
    assert received.pubacks == [s for s in sent if isinstance(s, int)]


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


SAID = "1f 00 02 6e 6f"  # reason string "no"


@pytest.mark.parametrize(
    ("packet", "control"),
    [
        ("20 03 00 00 00", Connack(session_present=False, code=0)),
        ("20 03 01 00 00", Connack(session_present=True, code=0)),
        ("20 03 00 86 00", Connack(session_present=False, code=0x86)),
        ("20 06 00 00 03 21 00 14", Connack(session_present=False, code=0, properties={0x21: 20})),
        ("20 02 00 01", Connack(session_present=False, code=1)),  # by a broker that has only 3.1.1
        ("90 05 01 02 00 01 87", Suback(0x0102, b"\x01\x87")),
        (f"90 09 01 02 05 {SAID} 8f", Suback(0x0102, b"\x8f", "no")),
        ("b0 04 00 0a 00 11", Unsuback(10)),
        ("40 03 00 0a 10", Puback(10, 0x10)),  # nobody subscribed
        (f"40 09 00 0a 97 05 {SAID}", Puback(10, 0x97, "no")),
        ("d0 00", Pingresp()),
        ("e0 00", Disconnect(0)),
        ("e0 01 8e", Disconnect(0x8E)),
        (f"e0 0a 9c 08 {SAID} 1c 00 00", Disconnect(0x9C, "no")),
        (f"e0 0b 9c 09 1c 00 01 62 {SAID}", Disconnect(0x9C, "no", "b")),
    ],
)
def test_control_packets_of_mqtt_5(packet: str, control: object) -> None:
    raw = bytes.fromhex(packet)
    assert decode(raw, list(range(len(raw))), "5").controls == [control]


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


@pytest.mark.parametrize(
    ("packet", "rule"),
    [
        ("32 05 00 01 74 00 01", "3.1.1, 3.3.2"),  # no length of properties
        ("32 06 00 01 74 00 01 01", "3.1.1, 3.3.2"),  # properties beyond the packet
        ("32 07 00 01 74 00 01 80 80", "3.1.1, 3.3.2"),
        ("30 03 00 01 74", "3.1.1, 3.3.2"),
        ("30 08 00 01 74 ff ff ff ff 01", "3.1.1, 2.2.3"),
        ("20 02 00 00", "3.1.1, 2.2"),  # the acceptance of 3.1.1
        ("20 06 00 00 02 21 00 14", "5, 2.2.2"),  # goes on behind its properties
        ("20 05 00 00 02 21 00", "5, 2.2.2"),
        ("20 06 00 00 04 21 00 14", "5, 2.2.2"),
        ("20 05 00 00 02 7f 00", "5, 2.2.2.2"),  # unknown
        ("20 09 00 00 06 21 00 14 21 00 14", "5, 2.2.2.2"),  # twice
        ("90 03 00 01 00", "3.1.1, 2.2"),
        ("f0 00", "3.1.1, 2.2"),  # AUTH, for which nobody asked
        ("e1 00", "3.1.1, 2.2"),
    ],
)
def test_what_no_broker_may_send_in_mqtt_5_names_the_rule(packet: str, rule: str) -> None:
    with pytest.raises(ProtocolError, match=rf"MQTT {re.escape(rule)}\b"):
        decode(bytes.fromhex(packet), version="5")


def test_a_long_packet_that_is_no_message_is_refused_before_it_came() -> None:
    with pytest.raises(ProtocolError, match="type 9 has 268435460 bytes"):
        decode(bytes.fromhex("90 ff ff ff 7f"))


@pytest.mark.parametrize("version", VERSIONS)
def test_the_rest_of_a_long_message_is_not_kept(version: Version) -> None:
    decoder = Decoder(PACKET_BYTES_MAX, KEEP_BYTES, version)
    stream = Sent("a/b", bytes(range(256)) * 4096, 1, 9, dup=False, retain=False).encoded(version)
    for start in range(0, len(stream) - 1, 1000):
        assert not decoder.feed(stream[start : min(start + 1000, len(stream) - 1)]).messages.topics
        assert sum(map(len, decoder._parts)) <= PACKET_BYTES_MAX + 1000
    messages = decoder.feed(stream[-1:]).messages
    assert messages.payloads == [bytes(range(KEEP_BYTES))]
    assert messages.oversized == {0: 256 * 4096}


@pytest.mark.parametrize("length", [0, 50, 127, 128, 200, 400, 50_000])
@pytest.mark.parametrize("payload", [b"", bytes(range(256)) * 40])
def test_properties_are_skipped_however_long(length: int, payload: bytes) -> None:
    body = b"\x00\x01t\x00\x09" + packets.encode_length(length) + bytes(length) + payload
    stream = b"\x32" + packets.encode_length(len(body)) + body + encode.publish("u", b"v", packet_id=1, version="5")
    is_long = len(stream) > PACKET_BYTES_MAX
    for piece in (1, 7, 1000, len(stream)):
        messages = decode(stream, list(range(0, len(stream), piece)), "5").messages
        assert messages.topics == ["t", "u"]
        assert messages.packet_ids == [9, 1]
        assert messages.oversized == ({0: len(payload)} if is_long else {})
        beginning = payload[:KEEP_BYTES] if length <= 200 else b""
        assert messages.payloads == [beginning if is_long else payload, b"v"]


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


def test_encoded_bytes_of_mqtt_5() -> None:
    will = encode.Will("w", b"gone")
    numbers = {properties.SESSION_EXPIRY_S: 0xFFFFFFFF, properties.RECEIVE_MAX: 500}
    assert encode.connect("me", 60, clean_session=False, will=will, version="5", numbers=numbers) == (
        b"\x10\x21\x00\x04MQTT\x05\x0c\x00\x3c\x08\x11\xff\xff\xff\xff\x21\x01\xf4\x00\x02me\x00\x00\x01w\x00\x04gone"
    )
    assert encode.subscribe(10, [("a/+", 1)], "5") == b"\x82\x09\x00\x0a\x00\x00\x03a/+\x11"
    assert encode.publish("t", b"p", packet_id=258, version="5") == b"\x32\x07\x00\x01t\x01\x02\x00p"
    assert encode.publish("t", b"p", qos=0, version="5") == b"\x30\x05\x00\x01t\x00p"


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

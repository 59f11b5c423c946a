"""The receive path under fire: any bytes, in any cut, and valid streams that were damaged, for both versions.

Nothing but ProtocolError, bounded memory, and the same outcome however the stream is cut. That real packets are
understood is told by paho, whose encoder shares nothing with ours, and by what Mosquitto once sent.
"""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from broker_bridge.mqtt import encode, packets, properties
from broker_bridge.mqtt.codec import Decoder
from broker_bridge.mqtt.packets import ProtocolError, Version

PACKET_BYTES_MAX, KEEP_BYTES = 300, 20
VERSIONS: tuple[Version, ...] = ("3.1.1", "5")

BUFFERED_BYTES_MAX = 65_535 + 11 + KEEP_BYTES
"""Of one packet: a topic may be that long, and what is in front of it; packet_bytes_max is less in these tests."""

# What Mosquitto 2.0.11 sent to a subscriber: CONNACK, SUBACK, three messages (the first one with MQTT 5 from a
# publisher that gave it every property there is), PINGRESP, and the PUBACK of a message that nobody wanted.
RECORDED: dict[Version, bytes] = {
    "3.1.1": bytes.fromhex(
        "20020000 9003000101 320f0004742f643100017b2261223a317d 30060004742f6432"
        f"329e010004742f64330002{'78' * 150} d000 40020007"
    ),
    "5": bytes.fromhex(
        "200600000322000a 90040001000132 570004742f643100014701010300106170706c69636174696f6e2f6a736f6e08000a"
        "616e73776572732f643109000200012600086669726d776172650003312e32260004736974650002c3b602000002587b2261"
        f"223a317d 30070004742f643200 329f010004742f6433000200{'78' * 150} d000 4003000710"
    ),
}


@dataclass
class Outcome:
    """What a stream gave, up to its end or to the error."""

    messages: list[tuple[object, ...]] = field(default_factory=list)
    pubacks: list[int] = field(default_factory=list)
    controls: list[object] = field(default_factory=list)
    failed: bool = False


def outcome(stream: bytes, cuts: list[int], version: Version) -> Outcome:
    """Feed a stream in pieces, and look at what the decoder keeps of it in between."""
    decoder, total = Decoder(PACKET_BYTES_MAX, KEEP_BYTES, version), Outcome()
    for start, stop in pairwise([0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]):
        try:
            received = decoder.feed(stream[start:stop])
        except ProtocolError:
            total.failed = True
            return total
        assert sum(map(len, decoder._parts)) <= BUFFERED_BYTES_MAX + stop - start
        messages = received.messages
        for index, columns in enumerate(zip(messages.topics, messages.payloads, messages.packet_ids, strict=True)):
            flags = index in messages.redelivered, index in messages.retained, messages.oversized.get(index)
            total.messages.append((*columns, *flags))
        total.pubacks += received.pubacks
        total.controls += received.controls
    return total


def is_same_in_any_cut(stream: bytes, cuts: list[int], version: Version) -> Outcome:
    """Compare a cut with the finest one, byte by byte; returns the latter."""
    finest, other = outcome(stream, list(range(len(stream))), version), outcome(stream, cuts, version)
    if finest.failed:  # of the piece with the error nothing is told
        assert other.failed
        assert other.messages == finest.messages[: len(other.messages)]
        assert other.pubacks == finest.pubacks[: len(other.pubacks)]
        assert other.controls == finest.controls[: len(other.controls)]
    else:
        assert other == finest
    return finest


cuts = st.lists(st.integers(0, 3000), max_size=8)
topics = st.text(st.characters(exclude_characters="\0+#", exclude_categories=["Cs"]), min_size=1, max_size=12)
names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)


def paho_properties(kind: int, **values: object) -> bytes:
    """Properties with their length, as paho writes them."""
    made = Properties(kind)
    for name, value in values.items():
        setattr(made, name, value)
    return bytes(made.pack())


publish_properties = st.fixed_dictionaries(
    {},
    optional={
        "PayloadFormatIndicator": st.integers(0, 1),
        "MessageExpiryInterval": st.integers(0, 2**32 - 1),
        "ContentType": names,
        "ResponseTopic": names,
        "CorrelationData": st.binary(max_size=200),
        "UserProperty": st.lists(st.tuples(names, names), min_size=1, max_size=3),
    },
)


@st.composite
def publishes(draw: st.DrawFn, version: Version) -> bytes:
    """A PUBLISH, with MQTT 5 with properties as paho writes them."""
    payload = draw(st.binary(max_size=30) | st.integers(0, 1500).map(bytes))
    qos, packet_id = draw(st.integers(0, 1)), draw(st.integers(1, 65_535))
    packet = encode.publish(
        draw(topics), payload, qos=qos, packet_id=packet_id, dup=draw(st.booleans()), version=version
    )
    if version == "3.1.1":
        return packet
    body = packet[packets.decode_length(packet, 1)[1] :]
    stop = len(body) - len(payload) - 1
    given_properties = paho_properties(PacketTypes.PUBLISH, **draw(publish_properties))
    body = body[:stop] + given_properties + payload
    return packet[:1] + packets.encode_length(len(body)) + body


def streams(version: Version) -> st.SearchStrategy[bytes]:
    packet_ids = st.integers(1, 65_535).map(lambda packet_id: encode.pubacks([packet_id]))
    recorded = st.just(RECORDED[version])
    return st.lists(st.one_of(publishes(version), packet_ids, recorded), max_size=6).map(b"".join)


@pytest.mark.parametrize("version", VERSIONS)
def test_what_mosquitto_sent_is_understood_in_any_cut(version: Version) -> None:
    stream = RECORDED[version]
    for piece in range(1, len(stream)):
        got = is_same_in_any_cut(stream, list(range(0, len(stream), piece)), version)
    assert not got.failed
    assert got.messages == [
        ("t/d1", b'{"a":1}', 1, False, False, None),
        ("t/d2", b"", 0, False, False, None),
        ("t/d3", b"x" * 150, 2, False, False, None),
    ]
    kinds = [type(control).__name__ for control in got.controls]
    assert kinds == ["Connack", "Suback", "Pingresp", *(["Puback"] if version == "5" else [])]
    assert got.pubacks == ([7] if version == "3.1.1" else [])


@pytest.mark.parametrize("version", VERSIONS)
@given(data=st.data())
def test_a_valid_stream_is_the_same_in_any_cut(version: Version, data: st.DataObject) -> None:
    assert not is_same_in_any_cut(data.draw(streams(version)), data.draw(cuts), version).failed


@pytest.mark.parametrize("version", VERSIONS)
@given(garbage=st.binary(max_size=400), cuts=cuts)
def test_garbage_is_an_error_or_nothing(version: Version, garbage: bytes, cuts: list[int]) -> None:
    is_same_in_any_cut(garbage, cuts, version)


@pytest.mark.parametrize("version", VERSIONS)
@given(data=st.data())
def test_a_damaged_stream_is_an_error_or_other_messages(version: Version, data: st.DataObject) -> None:
    """Bytes changed, dropped, put in and doubled."""
    stream = bytearray(data.draw(streams(version)) or RECORDED[version])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(stream)))
        piece = data.draw(st.one_of(st.binary(max_size=4), st.just(bytes(stream[at : at + 12]))))
        stream[at : at + data.draw(st.integers(0, 4))] = piece
    is_same_in_any_cut(bytes(stream), data.draw(cuts), version)


@pytest.mark.parametrize("version", VERSIONS)
@given(length=st.integers(0, 0x0FFF_FFFF), header=st.integers(0, 255), body=st.binary(max_size=8))
def test_no_length_makes_it_keep_much(version: Version, length: int, header: int, body: bytes) -> None:
    """A packet says how long it is, and then comes as slowly as it can."""
    stream = bytes([header]) + packets.encode_length(length) + body + bytes(4000)
    outcome(stream, list(range(0, len(stream), 97)), version)


CONNACK_NAMES = {
    "SessionExpiryInterval": (properties.SESSION_EXPIRY_S, st.integers(0, 2**32 - 1)),
    "ServerKeepAlive": (properties.SERVER_KEEP_ALIVE_S, st.integers(0, 65_535)),
    "ReceiveMaximum": (properties.RECEIVE_MAX, st.integers(1, 65_535)),
    "MaximumPacketSize": (properties.PACKET_BYTES_MAX, st.integers(1, 2**28 - 1)),
    "ReasonString": (properties.REASON_STRING, names),
    "ServerReference": (properties.SERVER_REFERENCE, names),
    "MaximumQoS": (0x24, st.integers(0, 1)),
    "AssignedClientIdentifier": (0x12, names),
    "UserProperty": (None, st.lists(st.tuples(names, names), min_size=1, max_size=2)),
}


@given(st.fixed_dictionaries({}, optional={name: values for name, (_, values) in CONNACK_NAMES.items()}))
def test_properties_are_what_paho_wrote(written: dict[str, object]) -> None:
    raw = paho_properties(PacketTypes.CONNACK, **written)
    read, stop = properties.decode(raw, 0, len(raw))
    assert stop == len(raw)
    expected = {CONNACK_NAMES[name][0]: value for name, value in written.items() if name != "UserProperty"}
    assert {key: value.decode() if isinstance(value, bytes) else value for key, value in read.items()} == expected

"""The decode stage: each message is all its readings, a dead letter, or skipped; nothing raises."""

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Coap, Collect, GatewayConfig
from edge_agent.decode import Decoder
from edge_agent.formats import FORMATS
from edge_agent.readings import Readings
from telemetry.columns import DEAD, Columns, DeadLetter, Series
from telemetry.delivery import Chunk
from telemetry.errors import FieldlineError

NOW = 1_767_225_600_000
TOPIC = "devices/a/telemetry"


def decoder(**limits: int) -> Decoder:
    ids: dict[Series, int] = {}
    config = GatewayConfig(gateway="g", coap=Coap(), collect=Collect.model_validate(limits))
    return Decoder(config, lambda series: ids.setdefault(series, len(ids)))


def chunk(*messages: tuple[str, bytes]) -> Chunk:
    return Chunk(NOW, [t for t, _ in messages], [p for _, p in messages], list(range(len(messages))))


def test_a_bad_message_between_good_ones_costs_only_itself() -> None:
    columns = Columns()
    refused = decoder().decode(
        chunk((TOPIC, b'{"p": 1}'), ("x/y", b"raw"), (TOPIC, b'{"p": [1]}'), (TOPIC, b'{"p": 2, "q": 3}')),
        columns,
    )
    assert refused == {
        1: "topic 'x/y' matches no mapping in gateway.toml",
        2: "'p' is an array, only a number, text, true, false or null can be a reading",
    }
    assert list(columns.series) == [0, DEAD, DEAD, 0, 1]
    assert columns.dead == {
        1: DeadLetter("x/y", b"raw", refused[1]),
        2: DeadLetter(TOPIC, b'{"p": [1]}', refused[2]),
    }
    assert [columns.value[i] for i in (0, 3, 4)] == [1.0, 2.0, 3.0]
    assert set(columns.received_at) == {NOW}


def test_known_repetitions_are_skipped() -> None:
    columns = Columns()
    messages = chunk((TOPIC, b'{"p": 1}'), (TOPIC, b"bad"), (TOPIC, b'{"p": 3}'))
    assert decoder().decode(messages, columns, {0, 1}) == {}
    assert list(columns.value) == [3.0]


def test_what_is_ignored_is_neither_a_record_nor_a_dead_letter() -> None:
    ignored = {"topic": "devices/+/debug/#", "ignore": True}
    config = GatewayConfig.model_validate(
        {"gateway": "g", "coap": {}, "mappings": [ignored, {}], "collect": {"payload_bytes_max": 64}}
    )
    decoder, columns = Decoder(config, lambda _series: 0), Columns()
    messages = chunk((TOPIC, b'{"p": 1}'), ("devices/a/debug/x", b"?"), ("devices/a/debug", b"x" * 65), (TOPIC, b"?"))
    assert list(decoder.decode(messages, columns)) == [3]
    assert list(columns.series) == [0, DEAD]
    assert decoder.ignored == 2


def test_a_large_payload_is_a_dead_letter_that_names_both_sizes() -> None:
    columns = Columns()
    refused = decoder(payload_bytes_max=64, dead_letter_bytes_max=80).decode(
        chunk((TOPIC, b"x" * 64), (TOPIC, b"x" * 70), (TOPIC, b"x" * 100)), columns
    )
    assert refused[1] == "the payload has 70 bytes, payload_bytes_max is 64"
    assert refused[2] == "the payload has 100 bytes, payload_bytes_max is 64; the first 80 are kept"
    assert [len(columns.dead[i].raw) for i in range(3)] == [64, 70, 80]


def test_a_payload_that_the_collector_cut_is_a_dead_letter_with_its_true_size() -> None:
    columns = Columns()
    messages = chunk((TOPIC, b'{"p": 1}'))
    messages.oversized[0] = 5_000_000
    refused = decoder().decode(messages, columns)
    assert refused == {0: "the payload has 5000000 bytes, payload_bytes_max is 262144; the first 1048576 are kept"}
    assert columns.dead[0].raw == b'{"p": 1}'


def test_at_series_max_a_message_becomes_a_dead_letter() -> None:
    def full(_series: Series) -> int:
        raise FieldlineError("The spool knows 10 series. Raise series_max.")

    columns = Columns()
    refused = Decoder(GatewayConfig(gateway="g", coap=Coap()), full).decode(chunk((TOPIC, b'{"p": 1}')), columns)
    assert refused == {0: "The spool knows 10 series. Raise series_max."}
    assert list(columns.series) == [DEAD]


def test_a_format_with_a_defect_costs_one_message(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(payload: bytes, _at: int, into: Readings) -> str | None:
        into.value.append(1.0)
        into.texts[0] = "x"
        raise ZeroDivisionError("oh")

    monkeypatch.setitem(FORMATS, "json", lambda _series, _mapping: broken)
    columns = Columns()
    with caplog.at_level(logging.ERROR):
        refused = decoder().decode(chunk((TOPIC, b"1"), (TOPIC, b"2")), columns)
    assert refused == dict.fromkeys((0, 1), "the format failed: ZeroDivisionError: oh")
    assert len(columns.value) == len(columns.series) == 2
    assert not columns.texts
    assert len(caplog.records) == 1


def test_a_message_that_says_what_it_is_is_decoded_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """By its mapping's format if that is one of those it may be in, else by the first of them."""

    def other(_payload: bytes, _at: int, _into: Readings) -> str:
        return "other"

    monkeypatch.setitem(FORMATS, "other", lambda _series, _mapping: other)
    messages = chunk(*[(TOPIC, b'{"p": 1}')] * 4)
    messages.formats = {1: ("other",), 2: ("other", "json"), 3: ("json",)}
    columns = Columns()
    assert decoder().decode(messages, columns) == {1: "other"}
    assert len(columns) == 4


json_like = st.one_of(
    st.binary(max_size=60),
    st.sampled_from([b"", b"{}", b'{"a":1}', b'{"a":"x","b":null}', b'{"a":1,"a":2}', b'{"ts":1,"a":1}']),
)


@given(st.lists(st.tuples(st.sampled_from([TOPIC, "devices/b/telemetry", "devices//telemetry", "x"]), json_like)))
def test_no_chunk_raises_and_the_columns_stay_parallel(messages: list[tuple[str, bytes]]) -> None:
    columns = Columns()
    refused = decoder().decode(chunk(*messages), columns)
    lengths = {
        len(c) for c in (columns.series, columns.measured_at, columns.received_at, columns.value, columns.quality)
    }
    assert len(lengths) == 1
    assert len(columns.dead) == len(refused) == list(columns.series).count(DEAD)

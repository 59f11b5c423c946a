"""The trunk's contract: what one end writes the other reads; what neither wrote is a WireError, never a crash."""

import json
from contextlib import suppress

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from broker_bridge import contract
from broker_bridge.contract import (
    AHEAD_RANGES_MAX,
    MESSAGE_BYTES_MAX,
    REFUSED_CHARS_MAX,
    Hello,
    Receipt,
    Status,
    partition_of,
)
from telemetry.errors import WireError
from telemetry.ranges import SeqRanges
from tests.records import texts

names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}", fullmatch=True)
seqs = st.integers(1, 2**62)
counts = st.integers(0, 2**63 - 1)
spans = st.tuples(seqs, seqs).map(lambda ends: (min(ends), max(ends)))
receipts = st.builds(
    Receipt, names, st.integers(0, 2**62), st.lists(spans, max_size=AHEAD_RANGES_MAX).map(tuple), names, texts, texts
)
statuses = st.builds(
    Status, names, texts, counts, counts, counts, counts, counts, counts, st.dictionaries(texts, texts, max_size=4)
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def hostile(*keys: str) -> st.SearchStrategy[bytes]:
    """Bytes, JSON of any kind, and objects with the right keys and any values."""
    objects = st.fixed_dictionaries({}, optional=dict.fromkeys(keys, json_values))
    return st.binary(max_size=60) | (json_values | objects).map(lambda value: json.dumps(value).encode())


@given(names)
def test_a_hello_is_read_as_it_was_written(epoch: str) -> None:
    assert Hello.decode(Hello(epoch).encode()) == Hello(epoch)


@given(receipts)
def test_a_receipt_is_read_as_it_was_written(receipt: Receipt) -> None:
    assert Receipt.decode(receipt.encode()) == receipt


@given(statuses)
def test_a_status_is_read_as_it_was_written(status: Status) -> None:
    assert Status.decode(status.encode()) == status


@settings(max_examples=300)
@given(hostile("epoch"))
def test_a_hello_of_anything_is_a_hello_or_a_sentence(payload: bytes) -> None:
    with suppress(WireError):
        assert contract.is_name(Hello.decode(payload).epoch)


@settings(max_examples=500)
@given(hostile("epoch", "mark", "ahead", "worker", "refused", "undefined"))
@example(b'{"epoch": "e", "mark": Infinity}')
@example(b'{"epoch": "e", "mark": NaN}')
@example(b'{"epoch": "e", "mark": 1, "ahead": [[1e999, 2]]}')
@example(b'{"epoch": "e", "mark": 1, "ahead": [[1, 2, 3]]}')
@example(b'{"epoch": "\\ud800", "mark": 1}')
@example(b"[" * 60_000)
@example(b"9" * 60_000)
def test_a_receipt_of_anything_is_a_receipt_or_a_sentence(payload: bytes) -> None:
    with suppress(WireError):
        receipt = Receipt.decode(payload)
        assert receipt.mark >= 0
        assert receipt.ranges().mark >= receipt.mark


@settings(max_examples=500)
@given(hostile(*Status.__dataclass_fields__))
@example(b'{"epoch": "e", "agent_version": "", "reported_at": 1e999}')
def test_a_status_of_anything_is_a_status_or_a_sentence(payload: bytes) -> None:
    with suppress(WireError):
        assert 0 <= Status.decode(payload).last_seq < 2**63


def test_a_status_of_an_older_agent_is_a_status() -> None:
    content = json.loads(Status("e", "0", 1, 2, 3, 4, 5, 6, thinned=7).encode())
    assert Status.decode(json.dumps(content).encode()).thinned == 7
    del content["thinned"]
    assert Status.decode(json.dumps(content).encode()).thinned == 0


@pytest.mark.parametrize("field", ["reported_at", "mark", "last_seq", "spool_records", "spool_bytes", "thinned"])
@pytest.mark.parametrize("value", [-1, 2**63, None, "x", float("inf"), []])
def test_a_status_with_a_number_that_cannot_be_is_refused(field: str, value: object) -> None:
    content = json.loads(Status("e", "0", 1, 2, 3, 4, 5, 6).encode())
    with pytest.raises(WireError, match=r"not a status|out of range"):
        Status.decode(json.dumps(content | {field: value}).encode())


@pytest.mark.parametrize("decode", [Hello.decode, Receipt.decode, Status.decode])
def test_a_message_is_not_longer_than_its_limit(decode: object) -> None:
    assert callable(decode)
    padding = b" " * (MESSAGE_BYTES_MAX - len(Receipt("e", 1).encode()))
    assert Receipt.decode(Receipt("e", 1).encode() + padding) == Receipt("e", 1)
    with pytest.raises(WireError, match=f"is {MESSAGE_BYTES_MAX + 1} bytes long, the limit is {MESSAGE_BYTES_MAX}"):
        decode(Status("e", "0", 1, 2, 3, 4, 5, 6).encode().ljust(MESSAGE_BYTES_MAX + 1))


@given(st.integers(1, 2**62), st.text(min_size=600, max_size=700), st.text(max_size=128))
def test_a_receipt_keeps_within_the_limits_of_a_message(seq: int, refused: str, worker: str) -> None:
    ahead = tuple((seq + 2 * i, seq + 2 * i) for i in range(AHEAD_RANGES_MAX + 9))
    encoded = Receipt("e" * 128, seq, ahead, worker, refused).encode()
    assert len(encoded) <= MESSAGE_BYTES_MAX
    content = json.loads(encoded)
    assert content["ahead"] == [list(span) for span in ahead[:AHEAD_RANGES_MAX]]
    assert content["refused"] == refused[:REFUSED_CHARS_MAX]


def test_a_receipt_s_ranges_are_its_mark_and_what_is_ahead() -> None:
    assert Receipt("e", 3, ((4, 5), (9, 9))).ranges() == SeqRanges([(1, 5), (9, 9)])
    assert Receipt("e", 0, ((4, 5),)).ranges().mark == 0
    for wrong in (((0, 5),), ((5, 4),), ((-1, 1),)):
        with pytest.raises(WireError, match="ascending and start at 1"):
            Receipt.decode(Receipt("e", 1, wrong).encode())
    with pytest.raises(WireError):
        Receipt.decode(Receipt("e", -1).encode())


@given(st.integers(0, 65_535), st.sampled_from(["batch", "hello", "status"]), names)
def test_topics_are_read_as_they_were_written(partition: int, kind: str, gateway: str) -> None:
    assert contract.split_up_topic(contract.up_topic(partition, kind, gateway)) == (partition, kind, gateway)


@settings(max_examples=300)
@given(st.text() | st.tuples(st.just("fieldline"), st.just("1"), st.text(), st.text(), st.text()).map("/".join))
@example("fieldline/1/²/batch/g")
@example("fieldline/1/" + "9" * 5000 + "/batch/g")
@example("fieldline/2/3/batch/g")
@example("a/b/3/batch/g")
@example("fieldline/1/-3/batch/g")
@example("fieldline/1/3/batch/g/h")
@example("fieldline/1/٣/batch/g")
@example("fieldline/1/3\n/batch/g")
def test_any_other_topic_is_a_sentence(topic: str) -> None:
    with suppress(WireError):
        partition, kind, gateway = contract.split_up_topic(topic)
        assert topic.startswith(f"{contract.ROOT}/")
        assert topic.endswith(f"{partition}/{kind}/{gateway}")


def test_topics_and_filters_fit() -> None:
    assert contract.up_topic(3, "batch", "g-1") == "fieldline/1/3/batch/g-1"
    assert contract.up_filter(3) == "fieldline/1/3/+/+"
    assert contract.worker_topic(3) == "fieldline/1/3/worker"
    assert contract.receipt_topic("g-1") == "fieldline/1/receipt/g-1"


@pytest.mark.parametrize(
    ("gateway", "partitions", "partition"),
    [("g", 1, 0), ("123456789", 2**32, 0xCBF43926), ("123456789", 16, 6), ("gateway-1", 16, 4), ("gateway-2", 16, 14)],
)
def test_the_partition_of_a_gateway_never_changes(gateway: str, partitions: int, partition: int) -> None:
    """Both ends must agree, over all versions: fixed vectors (CRC-32, the first one its catalogue's check value)."""
    assert partition_of(gateway, partitions) == partition


@given(st.text(st.characters(exclude_categories=["Cs"])), st.integers(1, 65_536))
def test_a_partition_is_in_range(gateway: str, partitions: int) -> None:
    assert 0 <= partition_of(gateway, partitions) < partitions

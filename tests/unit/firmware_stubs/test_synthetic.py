"""Synthetic devices: how many, how often, the same for the same seed; and their broken messages."""

import json
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Coap, GatewayConfig
from edge_agent.decode import Decoder
from firmware_stubs.message import Message
from firmware_stubs.synthetic import METRICS, POISON, device_names, messages, poisoned
from telemetry.columns import Columns
from telemetry.delivery import Chunk


def without_time(message: Message) -> tuple[object, ...]:
    values = json.loads(message.payload)
    assert values.pop("ts") > 1_700_000_000_000
    return message.device, message.due_s, tuple(values.items()), message.readings


def test_names_are_distinct_sorted_and_parts_of_a_topic() -> None:
    names = device_names(100_000)
    assert names == sorted(set(names))
    assert len(names) == 100_000
    assert names[0] == "dev-00000"
    assert device_names(3) == names[:3]


def test_a_thousand_devices_at_2_hz() -> None:
    names = device_names(1000)
    ten_s = list(islice(messages(names, 2.0, 4, seed=1), 20_000))
    assert Counter(message.device for message in ten_s) == dict.fromkeys(names, 20)
    assert max(message.due_s for message in ten_s) < 10.0
    due = [message.due_s for message in ten_s]
    assert due == sorted(due)
    of_one = [message.due_s for message in ten_s if message.device == "dev-00500"]
    assert of_one == pytest.approx([0.25 + number / 2 for number in range(20)]), "spread over the period"


@given(count=st.integers(1, 20), rate=st.floats(0.001, 1000), metrics=st.integers(1, 8), seed=st.integers())
def test_every_message_has_the_metrics_asked_for(count: int, rate: float, metrics: int, seed: int) -> None:
    for message in islice(messages(device_names(count), rate, metrics, seed), 2 * count):
        values = json.loads(message.payload)
        assert tuple(values) == ("ts", *METRICS[:metrics])
        assert message.readings == metrics
        assert not message.poison


def test_all_but_the_time_stamp_follows_from_the_seed() -> None:
    def first(seed: int) -> list[object]:
        return [without_time(message) for message in islice(messages(device_names(5), 1.0, 3, seed), 50)]

    assert first(7) == first(7)
    assert first(7) != first(8)


def test_the_poison_too() -> None:
    def positions(seed: int, share: float = 0.2) -> list[tuple[int, bytes]]:
        source = poisoned(messages(device_names(5), 1.0, 1, 1), share, seed)
        return [(at, message.payload) for at, message in enumerate(islice(source, 2000)) if message.poison]

    assert positions(3) == positions(3)
    assert positions(3) != positions(4)
    assert 300 < len(positions(3)) < 500
    assert {payload for _, payload in positions(3)} == set(POISON)
    assert positions(3, 0.0) == []
    assert len(positions(3, 1.0)) == 2000


def test_poison_takes_a_messages_place_and_leaves_the_others_alone() -> None:
    made = list(islice(messages(device_names(4), 1.0, 2, seed=1), 400))
    mixed = list(poisoned(iter(made), 0.5, seed=1))
    for before, after in zip(made, mixed, strict=True):
        assert (after.device, after.due_s) == (before.device, before.due_s)
        assert after == before if not after.poison else (after.readings == 0 and after.payload in POISON)


@pytest.mark.parametrize("payload", POISON, ids=lambda payload: repr(payload[:24]))
def test_the_agent_makes_each_broken_message_one_dead_letter(payload: bytes) -> None:
    decoder = Decoder(GatewayConfig(gateway="g", coap=Coap()), lambda _: 0)
    good = b'{"temperature": 1}'
    into = Columns()
    refused = decoder.decode(Chunk(1_767_225_600_000, ["devices/d/telemetry"] * 3, [good, payload, good], []), into)
    assert list(refused) == [1]
    assert len(into) == 3, "two readings and a dead letter"
    (letter,) = into.dead.values()
    assert letter.raw == payload
    assert letter.reason == refused[1]
    assert len(letter.reason) > 10

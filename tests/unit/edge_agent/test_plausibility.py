"""Which times of devices are believed, and what becomes of the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.config import Coap, GatewayConfig, Time
from edge_agent.decode import Decoder
from edge_agent.formats.times import AT_MS_MAX, AT_MS_MIN
from edge_agent.plausibility import CLOCK_SET_MS_MIN, DEVICE_MS_MIN, judge
from edge_agent.readings import Readings
from telemetry.columns import (
    TIME_FROM_DEVICE,
    TIME_FROM_GATEWAY,
    TIME_NOT_BELIEVED,
    VALUE_BAD,
    VALUE_STALE,
    Columns,
)
from telemetry.delivery import Chunk

NOW = 1_767_225_600_000
DAY = 86_400_000
ARRIVAL = NOW, TIME_FROM_GATEWAY | TIME_NOT_BELIEVED
LIMITS = Time(device_behind_days_max=3650)


def judged(at_ms: int, quality: int = TIME_FROM_DEVICE, now_ms: int = NOW, limits: Time = LIMITS) -> tuple[int, int]:
    readings = Readings()
    readings.add([0], [1.5], at_ms, quality)
    judge(readings, now_ms, limits)
    assert (readings.series, readings.value) == ([0], [1.5])
    return readings.measured_at[0], readings.quality[0]


@pytest.mark.parametrize(
    "at_ms", [NOW, NOW + DAY, NOW - 3650 * DAY, NOW - 5], ids=["now", "a day ahead", "10 years ago", "just now"]
)
def test_near_times_are_believed(at_ms: int) -> None:
    assert judged(at_ms) == (at_ms, TIME_FROM_DEVICE)


@pytest.mark.parametrize(
    "at_ms", [NOW + DAY + 1, NOW - 3650 * DAY - 1, 0, DEVICE_MS_MIN, AT_MS_MAX - 1], ids=lambda at: str(at - NOW)
)
def test_for_far_times_the_arrival_counts(at_ms: int) -> None:
    assert judged(at_ms) == ARRIVAL


def test_the_limits_are_those_of_the_config() -> None:
    narrow = Time(device_ahead_s_max=0, device_behind_days_max=0.5)
    assert judged(NOW + 1, limits=narrow) == ARRIVAL
    assert judged(NOW, limits=narrow) == (NOW, TIME_FROM_DEVICE)
    assert judged(NOW - DAY // 2, limits=narrow) == (NOW - DAY // 2, TIME_FROM_DEVICE)
    assert judged(NOW - DAY // 2 - 1, limits=narrow) == ARRIVAL
    wide = Time(device_ahead_s_max=1e10, device_behind_days_max=100_000)
    assert judged(AT_MS_MAX - 1, limits=wide) == (AT_MS_MAX - 1, TIME_FROM_DEVICE)
    assert judged(DEVICE_MS_MIN, limits=wide) == (DEVICE_MS_MIN, TIME_FROM_DEVICE)
    assert judged(DEVICE_MS_MIN - 1, limits=wide) == ARRIVAL


def test_what_the_device_says_of_the_value_stays() -> None:
    assert judged(0, VALUE_BAD | VALUE_STALE) == (NOW, ARRIVAL[1] | VALUE_BAD | VALUE_STALE)


def test_a_time_that_counts_from_the_arrival_is_held_to_the_limits() -> None:
    assert judged(NOW - 5000, TIME_FROM_GATEWAY) == (NOW - 5000, TIME_FROM_GATEWAY)
    assert judged(NOW - 3651 * DAY, TIME_FROM_GATEWAY) == ARRIVAL


def test_a_gateway_whose_clock_was_not_set_believes_devices_that_have_one() -> None:
    boot = 60_000
    assert judged(NOW, now_ms=boot) == (NOW, TIME_FROM_DEVICE)
    assert judged(NOW + 900 * DAY, now_ms=CLOCK_SET_MS_MIN - 1) == (NOW + 900 * DAY, TIME_FROM_DEVICE)
    assert judged(5000, now_ms=boot) == (boot, ARRIVAL[1])
    assert judged(boot, TIME_FROM_GATEWAY, now_ms=boot) == (boot, TIME_FROM_GATEWAY)
    assert judged(boot - 5000, TIME_FROM_GATEWAY, now_ms=boot) == (boot - 5000, TIME_FROM_GATEWAY)


times = st.one_of(st.integers(AT_MS_MIN, AT_MS_MAX - 1), st.integers(NOW - DAY, NOW + 2 * DAY))


@given(st.lists(st.tuples(times, st.sampled_from([0, 1, 2, 3, 5]))), st.sampled_from([NOW, 60_000]))
def test_readings_are_judged_each_by_itself(given_: list[tuple[int, int]], now_ms: int) -> None:
    readings = Readings()
    for at_ms, quality in given_:
        readings.add([0], [0.0], at_ms, quality)
    judge(readings, now_ms, LIMITS)
    got = list(zip(readings.measured_at, readings.quality, strict=True))
    assert got == [judged(at_ms, quality, now_ms) for at_ms, quality in given_]


def test_a_message_is_judged_on_its_way_into_the_columns() -> None:
    """Also one before a dead letter; and a time that is none is one still."""
    decoder, columns = Decoder(GatewayConfig(gateway="g", coap=Coap(), time=LIMITS), lambda _series: 0), Columns()
    payloads = [b'{"ts": 0, "p": 1}', b'{"ts": "soon", "p": 2}', b'{"ts": 946684800, "p": 3}', b'{"p": 4}']
    payloads += [b'{"ts": 1767225599, "p": 5}']
    refused = decoder.decode(Chunk(NOW, ["devices/a/telemetry"] * 5, payloads, [0] * 5), columns)
    assert list(refused) == [1]
    assert list(columns.measured_at) == [NOW, NOW, NOW, NOW, NOW - 1000]
    assert list(columns.quality) == [ARRIVAL[1], 0, ARRIVAL[1], TIME_FROM_GATEWAY, TIME_FROM_DEVICE]

"""Clocks of devices that are off: corrected as the config says, by the message alone; found where nothing is said."""

import random

import pytest

from edge_agent.config import GatewayConfig
from edge_agent.decode import Decoder
from edge_agent.offsets import FIND_MS, LOOK_EVERY_MS, Offsets, sentence
from edge_agent.readings import Readings
from telemetry.columns import (
    TIME_CORRECTED,
    TIME_FROM_GATEWAY,
    TIME_NOT_BELIEVED,
    US_PER_MS,
    Columns,
    Series,
)
from telemetry.delivery import Chunk
from tests.records import NEW_YEAR_MS

HOUR_MS = 3_600_000


def decoded(payload: str, device: str = "pump", **time: object) -> tuple[float, int, int]:
    """measured_at (ms, with microseconds), quality, and the offset in ms, of a message's one reading."""
    config = GatewayConfig.model_validate({"gateway": "g", "coap": {}, "time": time})
    ids: dict[Series, int] = {}
    columns = Columns()
    chunk = Chunk(NEW_YEAR_MS, [f"devices/{device}/telemetry"], [payload.encode()], [1])
    assert not Decoder(config, lambda series: ids.setdefault(series, len(ids))).decode(chunk, columns)
    offset_ms, us = divmod(columns.fine.get(0, 0), US_PER_MS)
    return columns.measured_at[0] + us / US_PER_MS, columns.quality[0], offset_ms


def test_a_known_offset_is_subtracted_and_kept_and_marked() -> None:
    stated = NEW_YEAR_MS + HOUR_MS
    measured, quality, offset = decoded(f'{{"ts": {stated}, "v": 1}}', offsets_s={"pump": 3600})
    assert (measured, quality, offset) == (NEW_YEAR_MS, TIME_CORRECTED, HOUR_MS)
    assert measured + offset == stated
    behind = decoded(f'{{"ts": {NEW_YEAR_MS - 2500}, "v": 1}}', offsets_s={"pump": -2.5})
    assert behind == (NEW_YEAR_MS, TIME_CORRECTED, -2500)


def test_microseconds_and_an_offset_are_both_kept() -> None:
    found = decoded('{"ts": "2026-01-01T01:00:00.000250Z", "v": 1}', offsets_s={"pump": 3600})
    assert found == (NEW_YEAR_MS + 0.25, TIME_CORRECTED, HOUR_MS)


def test_others_and_times_of_arrival_are_as_they_are() -> None:
    assert decoded('{"v": 1}', offsets_s={"pump": 3600}) == (NEW_YEAR_MS, TIME_FROM_GATEWAY, 0)
    assert decoded(f'{{"ts": {NEW_YEAR_MS}, "v": 1}}', "fan", offsets_s={"pump": 3600}) == (NEW_YEAR_MS, 0, 0)


def test_a_time_is_corrected_before_it_is_judged() -> None:
    years_ms = 3 * 366 * 86_400_000
    ahead = f'{{"ts": {NEW_YEAR_MS + years_ms}, "v": 1}}'
    assert decoded(ahead)[1] == TIME_FROM_GATEWAY | TIME_NOT_BELIEVED
    assert decoded(ahead, offsets_s={"pump": years_ms / 1000}) == (NEW_YEAR_MS, TIME_CORRECTED, years_ms)
    assert decoded(ahead, offsets_s={"pump": 1}) == (NEW_YEAR_MS, TIME_FROM_GATEWAY | TIME_NOT_BELIEVED, 0)


def watched(delays: "list[tuple[int, float]]", off_s_min: float = 60) -> dict[str, int]:
    """What is found of a device whose messages arrive at (ms) with a delay (ms)."""
    offsets = Offsets({}, off_s_min, lambda _series: 0)
    id_ = offsets.series_id(Series("pump", "v", ""))
    for at, delay in delays:
        readings = Readings()
        readings.add((id_,), (1.0,), NEW_YEAR_MS + at - delay, 0)
        offsets.apply(readings, NEW_YEAR_MS + at)
    return offsets.found_ms


def hours(count: int, delay_of: "callable") -> "list[tuple[int, float]]":
    """A message a minute."""
    return [(minute * 60_000, delay_of(minute * 60_000)) for minute in range(60 * count)]


def test_a_constant_offset_is_found_in_two_hours_whatever_the_jitter() -> None:
    chance = random.Random(7)
    found = watched(hours(3, lambda _: 7_200_000 + chance.expovariate(1 / 3000)))
    assert abs(found["pump"] + 7_200_000) < 2000
    found = watched(hours(3, lambda _: -300_000 + chance.expovariate(1 / 3000)))
    assert abs(found["pump"] - 300_000) < 2000


def test_a_right_clock_is_left_alone_also_when_its_gateway_was_away() -> None:
    chance = random.Random(8)
    assert watched(hours(5, lambda _: chance.expovariate(1 / 20_000))) == {}
    backlog = hours(5, lambda at: 3_000_000 if at % FIND_MS < FIND_MS * 0.9 else 200)
    assert watched(backlog) == {}


def test_a_clock_that_drifts_or_was_set_is_not_called_constant() -> None:
    assert watched(hours(8, lambda at: 120_000 + at / 50)) == {}
    assert watched(hours(3, lambda at: 7_200_000 if at < 1.5 * FIND_MS else 100)) == {}


def test_few_messages_say_nothing_and_looking_can_be_switched_off() -> None:
    assert watched([(n * 900_000, 7_200_000) for n in range(40)]) == {}
    assert watched(hours(3, lambda _: 7_200_000), off_s_min=0) == {}
    assert watched([(n * (LOOK_EVERY_MS // 2), 7_200_000.0) for n in range(100)]) == {}


def test_the_sentence_says_what_to_write() -> None:
    assert sentence("pump", 3_600_400) == (
        "The clock of device 'pump' is 3,600 s ahead. To correct its times: \"pump\" = 3600 in [time.offsets_s]."
    )
    assert "3,600 s behind, or it keeps its readings for that long" in sentence("pump", -3_600_000)
    with pytest.raises(ValueError, match="offsets_s"):
        GatewayConfig.model_validate({"gateway": "g", "coap": {}, "time": {"offsets_s": {"a": "now"}}})

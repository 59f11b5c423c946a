"""Objects within objects: what a small payload cannot make of itself, and units that messages state."""

import json
import tracemalloc

import pytest

from edge_agent.config import Objects
from edge_agent.formats.fields import METRICS_MAX, READINGS_MAX
from edge_agent.formats.json import json_tree
from edge_agent.formats.objects import ObjectsDecoder
from edge_agent.formats.senml import senml_json
from edge_agent.mapping import DeviceSeries
from edge_agent.readings import Readings
from telemetry.columns import Series
from telemetry.errors import FieldlineError

NOW = 1_767_225_600_000


def decode(message: object, **options: object) -> tuple[str | None, Readings]:
    known: dict[Series, int] = {}
    readings = Readings()
    series = DeviceSeries("d", {}, lambda s: known.setdefault(s, len(known)))
    decoder = ObjectsDecoder(json_tree, series, Objects.model_validate(options))
    return decoder(json.dumps(message).encode(), NOW, readings), readings


def test_a_long_key_is_not_repeated_for_each_of_its_values() -> None:
    """A key of 100 kB with 50,000 values below it would be names of 5 GB."""
    tracemalloc.start()
    reason, readings = decode({"k" * 100_000: [1] * 50_000})
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert reason is not None
    assert "too long" in reason
    assert not readings.value
    assert peak_bytes < 20_000_000


def test_a_base_name_is_not_repeated_for_each_record() -> None:
    pack = [{"bn": "k" * 100_000, "v": 1}, *({"n": "x", "v": 1} for _ in range(10_000))]
    series = DeviceSeries("d", {}, lambda _series: 0)
    assert (
        senml_json(series)(json.dumps(pack).encode(), NOW, Readings())
        == "record 1: the name has more than 128 characters"
    )


def test_metrics_and_readings_are_limited() -> None:
    assert (
        decode([1] * METRICS_MAX, fields={"a": "0"})[0]
        == "the payload must be an object, or an array of objects or arrays"
    )
    reason, readings = decode({"a": [1] * METRICS_MAX})
    assert reason is None
    assert len(readings.value) == METRICS_MAX
    assert decode({"a": [1] * (METRICS_MAX + 1)})[0] == "the message has 4097 metrics, at most 4096 are allowed"
    halves = [{f"m{number}": 1 for number in range(first, first + 4000)} for first in (0, 4000)]
    assert decode(halves)[0] == "the message has 8000 metrics, at most 4096 are allowed"
    assert str(decode([{"a": 1}] * (READINGS_MAX + 1))[0]).startswith("the message has more than 100000 readings")
    assert len(decode([{"a": 1}] * READINGS_MAX)[1].value) == READINGS_MAX


@pytest.mark.parametrize("common", [[1] * METRICS_MAX, "x" * 60_000])
def test_what_a_message_says_once_is_not_repeated_without_end(common: object) -> None:
    """50,000 readings with 4,096 values of the message, or a text of 60 kB, each."""
    tracemalloc.start()
    reason, readings = decode({"common": common, "data": [{}] * 50_000}, readings="data", fields={"a": "common"})
    _, peak_bytes = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert str(reason).startswith("the message has more than 100000 readings, or 16777216 characters")
    assert not readings.value
    assert peak_bytes < 60_000_000


def test_a_unit_of_the_message_is_the_series_unit_unless_the_mapping_says_one() -> None:
    known: dict[Series, int] = {}
    series = DeviceSeries("d", {"t": "°C"}, lambda s: known.setdefault(s, len(known)))
    assert series["t", ("t", "Cel"), ("t", "K"), "p", ("p", "Pa"), ("p", "")] == (0, 0, 0, 1, 2, 1)
    assert list(known) == [Series("d", "t", "°C"), Series("d", "p", ""), Series("d", "p", "Pa")]


@pytest.mark.parametrize("unit", ["u" * 33, "a\nb"])
def test_a_bad_unit_is_refused_and_makes_no_series(unit: str) -> None:
    known: dict[Series, int] = {}
    series = DeviceSeries("d", {}, lambda s: known.setdefault(s, len(known)))
    with pytest.raises(FieldlineError, match="is no text of at most 32"):
        series["t", ("p", unit)]
    assert not known

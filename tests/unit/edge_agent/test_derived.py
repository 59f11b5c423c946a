"""[[derived]]: readings computed from others of the same message, for every format, and never from two messages."""

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from edge_agent.config import GatewayConfig
from edge_agent.decode import Decoder
from edge_agent.preview import Preview
from telemetry.columns import VALUE_BAD, Columns, Series
from telemetry.delivery import Chunk
from telemetry.errors import FieldlineError
from tests.records import NEW_YEAR_MS

POWER = {"metric": "power", "expression": "voltage * current", "unit": "W"}


class Run:
    """A decoder. Of (device, payload) pairs it gives (device, metric, unit, value), and the dead letters' reasons."""

    def __init__(self, *derived: dict[str, Any], **sections: Any) -> None:
        self.config = GatewayConfig.model_validate({"gateway": "g", "coap": {}, "derived": derived, **sections})
        self.ids: dict[Series, int] = {}
        self.decoder = Decoder(self.config, self._series_id)
        self.series_max = 1000
        self.columns = Columns()

    def _series_id(self, series: Series) -> int:
        if series not in self.ids and len(self.ids) >= self.series_max:
            raise FieldlineError("it would be one series more than series_max")
        return self.ids.setdefault(series, len(self.ids))

    def __call__(self, *messages: tuple[str, Any]) -> tuple[list[tuple[Any, ...]], list[str]]:
        payloads = [m if isinstance(m, bytes) else json.dumps(m).encode() for _, m in messages]
        topics = [f"devices/{device}/telemetry" for device, _ in messages]
        self.columns = Columns()
        refused = self.decoder.decode(Chunk(NEW_YEAR_MS, topics, payloads, [0] * len(payloads)), self.columns)
        names = list(self.ids)
        found = [
            (*names[id_][:3], self.columns.texts.get(at, self.columns.value[at]))
            for at, id_ in enumerate(self.columns.series)
            if id_ >= 0
        ]
        return found, list(refused.values())


def derived(run: Run, *messages: tuple[str, Any], metric: str = "power") -> list[tuple[str, float]]:
    return [(device, value) for device, name, _, value in run(*messages)[0] if name == metric]


def test_a_reading_is_added_for_each_message_that_has_all_it_takes() -> None:
    run = Run(POWER)
    found, refused = run(("a", {"voltage": 230, "current": 2}), ("b", {"voltage": 12, "current": 0.5, "x": 1}))
    assert not refused
    assert [row for row in found if row[1] == "power"] == [("a", "power", "W", 460.0), ("b", "power", "W", 6.0)]
    assert len(found) == 7


def test_a_derived_reading_has_the_tags_of_its_device() -> None:
    run = Run(POWER, tags={"site": "north"})
    run(("a", {"voltage": 230, "current": 2}))
    assert {series.tags for series in run.ids} == {'{"site":"north"}'}


def test_what_is_missing_is_not_taken_from_another_message() -> None:
    run = Run(POWER)
    assert derived(run, ("a", {"voltage": 230}), ("a", {"current": 2}), ("b", {"current": 2})) == []
    assert derived(run, ("a", {"voltage": 230, "current": "off"})) == []
    assert derived(run, ("a", {"voltage": 230, "current": None})) == []


def test_times_of_one_message_are_computed_each() -> None:
    run = Run(POWER, mappings=[{"json": {"readings": "r"}}])
    message = {
        "r": [{"ts": 1767225600 + n, "voltage": n, "current": 10} for n in range(3)]
        + [{"ts": 1767225603, "voltage": 1}]
    }
    assert derived(run, ("a", message)) == [("a", 0.0), ("a", 10.0), ("a", 20.0)]
    times = [run.columns.measured_at[at] for at in range(len(run.columns)) if run.columns.value[at] == 20.0]
    assert times == [1767225602000]


def test_sections_hold_for_their_devices_and_may_use_those_before_them() -> None:
    run = Run(POWER | {"device": "pump-*"}, {"metric": "load", "expression": "100 * power / 500", "unit": "%"})
    assert derived(run, ("pump-1", {"voltage": 250, "current": 1}), metric="load") == [("pump-1", 50.0)]
    assert derived(run, ("fan-1", {"voltage": 250, "current": 1}), metric="load") == []
    assert derived(run, ("fan-1", {"power": 100}), metric="load") == [("fan-1", 20.0)]


def test_a_message_that_brings_the_metric_keeps_its_own() -> None:
    assert derived(Run(POWER), ("a", {"voltage": 2, "current": 3, "power": 7})) == [("a", 7.0)]


def test_what_has_no_value_gives_no_reading_and_the_others_stay() -> None:
    run = Run({"metric": "ratio", "expression": "a / b"})
    found, refused = run(("a", {"a": 1, "b": 0}), ("a", {"a": 1, "b": 4}))
    assert not refused
    assert [value for _, name, _, value in found if name == "ratio"] == [0.25]
    assert len(found) == 5


def test_a_result_that_is_too_large_gives_no_reading_and_the_others_stay() -> None:
    found, refused = Run({"metric": "m", "expression": "floor(a) * floor(b)"})(("a", {"a": 1e200, "b": 1e200}))
    assert not refused
    assert [name for _, name, _, _ in found] == ["a", "b"]


def test_rules_come_after_and_quality_comes_from_the_operands() -> None:
    run = Run(
        POWER,
        process=[
            {"metric": "power", "scale": 0.001, "unit": "kW", "value_max": 1.0},
            {"metric": "voltage", "scale": 1000, "unit": "mV"},
        ],
    )
    found, _ = run(("a", {"voltage": 500, "current": 4}))
    assert found == [("a", "voltage", "mV", 500_000.0), ("a", "current", "", 4.0), ("a", "power", "kW", 2.0)]
    assert run.columns.quality[2] & VALUE_BAD


def test_a_series_too_many_makes_a_dead_letter_of_the_whole_message() -> None:
    run = Run(POWER)
    run.series_max = 2
    found, refused = run(("a", {"voltage": 1, "current": 1}))
    assert found == []
    assert refused == ["it would be one series more than series_max"]


def test_the_sections_of_the_page() -> None:
    page = Path(__file__).parents[3] / "docs" / "processing.md"
    _, snippet = re.findall(r"```toml\n(.*?)```", page.read_text(), re.DOTALL)
    run = Run(*tomllib.loads(snippet)["derived"])
    assert derived(run, ("tank-1", {"level raw": 8}), metric="fill") == [("tank-1", 25.0)]
    assert derived(run, ("tank-1", {"level raw": 2}), metric="fill") == [("tank-1", 0.0)]
    assert derived(run, ("oven", {"voltage": 230, "current": 2})) == [("oven", 460.0)]


def test_other_formats_too() -> None:
    run = Run(
        {"metric": "net", "expression": "'gross weight' - tare"},
        mappings=[{"format": "csv", "csv": {"columns": ["gross weight", "tare"]}}],
    )
    assert derived(run, ("scale", b"12.5,2.5\n20,2\n"), metric="net") == [("scale", 10.0), ("scale", 18.0)]


@pytest.mark.parametrize(
    ("payload", "note"),
    [
        (b'{"voltage": 1}', "power of a is not derived: the message has no number for current at that time"),
        (b'{"voltage": 1e200, "current": 1e200}', "'voltage * current' has no value for these numbers"),
        (b'{"voltage": 1, "current": 1, "power": 1}', "the message has it itself"),
        (b'{"voltage": 1, "current": 1}', ""),
    ],
)
def test_people_are_told_why_there_is_none(payload: bytes, note: str) -> None:
    fate = Preview(Run(POWER).config)("devices/a/telemetry", payload, NEW_YEAR_MS)
    assert note in fate.silence
    assert bool(note) == bool(fate.silence)

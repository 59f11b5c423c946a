"""Profiles: examples of what the products publish, and that the docs show what a profile stands for.

A case is a folder `tests/cases/profiles/PROFILE/NAME` with a file `payload` and a file `expected.json`: its topic, the
device, and readings as [metric, value or text, measured_at in ms, quality, unit if any]; `received_at` in ms, if it
matters when it came. A file `mapping.toml` has what the mapping says besides the profile. `captured`: a device sent
this payload, and somebody showed it there; the others were made after the makers' documents.
"""

import json
import re
import tomllib
from pathlib import Path

import pytest

from edge_agent.config import GatewayConfig
from edge_agent.decode import Decoder
from edge_agent.profiles import profiles
from telemetry.delivery import Chunk

ROOT = Path(__file__).parents[3]
CASES = ROOT / "tests" / "cases" / "profiles"
RECEIVED_AT_MS = 1_767_225_600_000  # 2026-01-01


def config(*mappings: dict[str, object]) -> GatewayConfig:
    return GatewayConfig.model_validate({"gateway": "g", "coap": {}, "mappings": list(mappings)})


@pytest.mark.parametrize("case", sorted(CASES.glob("*/*/")), ids=lambda case: f"{case.parent.name}-{case.name}")
def test_case(case: Path) -> None:
    expected = json.loads((case / "expected.json").read_text())
    options = case / "mapping.toml"
    own = tomllib.loads(options.read_text()) if options.exists() else {}
    decode = Decoder.alone(config({"profile": case.parent.name, **own}))
    received_at = expected.get("received_at", RECEIVED_AT_MS)
    columns, series = decode(Chunk(received_at, [expected["topic"]], [(case / "payload").read_bytes()], [0]))
    assert not columns.dead
    assert {each.device for each in series} <= {expected["device"]}
    assert [
        (
            series[columns.series[at]].metric,
            columns.texts.get(at, columns.value[at]),
            columns.measured_at[at],
            columns.quality[at],
            series[columns.series[at]].unit,
        )
        for at in range(len(columns))
    ] == [(*reading, "")[:5] for reading in expected["readings"]]


def test_what_a_device_sends_that_is_no_json_is_a_dead_letter_with_its_bytes() -> None:
    """Tasmota 9.5.0 did, https://github.com/arendst/Tasmota/issues/12552."""
    payload = b'{"Time":"2021-07-03T23:47:17","AM2320":{"Temperature":,"Humidity":},"TempUnit":"C"}'
    decode = Decoder.alone(config({"profile": "tasmota"}))
    columns, _ = decode(Chunk(RECEIVED_AT_MS, ["tele/balcony/SENSOR"], [payload], [0]))
    [(_, letter)] = columns.dead.items()
    assert letter.raw == payload
    assert "JSON" in letter.reason


def test_every_profile_has_cases_and_is_shown_in_the_docs_as_it_is() -> None:
    assert {folder.name for folder in CASES.iterdir()} == set(profiles())
    page = (ROOT / "docs" / "profiles.md").read_text()
    shown = re.findall(r"^## ([\w-]+)\n.*?^```toml\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    assert {name: tomllib.loads(written)["mappings"] for name, written in shown} == profiles()


def test_what_a_mapping_says_besides_wins_key_by_key() -> None:
    own = {"profile": "tasmota", "units": {"SI7021.Temperature": "°C"}, "json": {"time": "Time", "time_zone": "UTC"}}
    sensor, state = config(own).mappings
    assert sensor.topic == "tele/{device}/SENSOR"
    assert sensor.units == state.units == {"SI7021.Temperature": "°C"}
    for mapping, ignored in ((sensor, "TempUnit"), (state, "Uptime")):
        assert mapping.json_ is not None
        assert (mapping.json_.time, mapping.json_.time_zone) == ("Time", "UTC")
        assert ignored in mapping.json_.ignore


def test_profiles_and_mappings_keep_their_order() -> None:
    mappings = config(
        {"topic": "a/{device}"}, {"profile": "zigbee2mqtt", "topic": "z/{device}"}, {"profile": "ttn"}
    ).mappings
    assert [mapping.topic for mapping in mappings] == ["a/{device}", "z/{device}", "v3/+/devices/{device}/up"]

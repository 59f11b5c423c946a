"""Tags and [devices]: what config and topic make of a message's series."""

import pytest

from edge_agent.config import GatewayConfig
from edge_agent.decode import Decoder
from edge_agent.mapping import of_sparkplug
from edge_agent.naming import Naming
from edge_agent.readings import DROPPED
from telemetry.columns import Series
from telemetry.delivery import Chunk
from telemetry.tags import pack


def decoded(config: dict[str, object], *messages: tuple[str, bytes]) -> tuple[list[Series], list[str]]:
    """The series of the readings, and the reasons of dead letters."""
    checked = GatewayConfig.model_validate({"gateway": "g", "mqtt": {}, **config})
    columns, series = Decoder.alone(checked)(Chunk(0, [m[0] for m in messages], [m[1] for m in messages], [0, 0]))
    return [series[id_] for id_ in columns.series if id_ >= 0], [letter.reason for letter in columns.dead.values()]


FACTORY = {"topic": "factory/{site}/{line}/{device}", "tags": {"line": "?", "kind": "press"}}


def test_the_more_special_tag_wins() -> None:
    config = {
        "tags": {"site": "?", "line": "?", "plant": "north"},
        "mappings": [FACTORY],
        "devices": {"d2": {"tags": {"line": "2b", "kind": "saw"}}},
    }
    series, _ = decoded(config, ("factory/s7/2/d1", b'{"t": 1}'), ("factory/s7/2/d2", b'{"t": 1}'))
    common = {"plant": "north", "site": "s7"}
    assert series == [
        Series("d1", "t", "", pack({**common, "line": "2", "kind": "press"})),
        Series("d2", "t", "", pack({**common, "line": "2b", "kind": "saw"})),
    ]


def test_another_line_is_another_series_and_without_tags_nothing_is_said() -> None:
    series, _ = decoded({"mappings": [FACTORY]}, ("factory/s/1/d", b'{"t": 1}'), ("factory/s/2/d", b'{"t": 1}'))
    assert len(set(series)) == 2
    series, _ = decoded({}, ("devices/d/telemetry", b'{"t": 1}'))
    assert series == [Series("d", "t", "")]


def test_a_segment_that_is_no_tag_makes_a_dead_letter() -> None:
    series, reasons = decoded({"mappings": [FACTORY]}, ("factory/s//d", b'{"t": 1}'))
    assert (series, reasons) == ([], ["the tag 'line' must have 1 to 128 printable characters"])


def test_one_device() -> None:
    own = {"name": "cooling", "ignore": ["rssi"], "rename": {"t": "temperature"}, "units": {"temperature": "°C"}}
    config = {"mappings": [{"rename": {"p": "pressure"}, "units": {"pressure": "bar"}}], "devices": {"pump-7": own}}
    payload = b'{"t": 1, "p": 2, "rssi": -70}'
    series, _ = decoded(config, ("devices/pump-7/telemetry", payload), ("devices/other/telemetry", payload))
    assert series == [
        Series("cooling", "temperature", "°C"),
        Series("cooling", "pressure", "bar"),
        Series("other", "t", ""),
        Series("other", "pressure", "bar"),
        Series("other", "rssi", ""),
    ]


def test_only_and_ignore_of_a_device() -> None:
    config = {"mappings": [{"only": ["a"]}], "devices": {"d": {"only": ["b"]}, "e": {"ignore": True}}}
    payload = b'{"a": 1, "b": 2}'
    series, reasons = decoded(config, ("devices/d/telemetry", payload), ("devices/e/telemetry", payload))
    assert (series, reasons) == ([Series("d", "b", "")], [])


def test_two_devices_or_metrics_never_become_one() -> None:
    config = {
        "mappings": [{"rename": {"a": "x"}}],
        "devices": {"old": {"name": "new"}, "twice": {"rename": {"b": "x"}}},
    }
    _, reasons = decoded(config, ("devices/new/telemetry", b'{"a": 1}'), ("devices/twice/telemetry", b'{"a": 1}'))
    assert reasons == [
        "the device 'new' has the name that devices.old gives to another",
        "rename gives two metrics of 'twice' the same name, in its mapping and devices",
    ]


def test_devices_without_a_mapping() -> None:
    known: dict[Series, int] = {}
    config = GatewayConfig.model_validate(
        {
            "gateway": "g",
            "mqtt": {},
            "tags": {"site": "s"},
            "devices": {"g/n": {"name": "press", "ignore": ["x"]}, "g/m": {"ignore": True}},
        }
    )
    id_of = of_sparkplug(lambda series: known.setdefault(series, len(known)), Naming(config.tags, config.devices))
    assert [id_of(Series("g/n", "x", "")), id_of(Series("g/m", "y", ""))] == [DROPPED, DROPPED]
    assert id_of(Series("g/n", "y", "V")) == 0
    assert id_of(Series("g/other", "y", "")) == 1
    assert list(known) == [Series("press", "y", "V", '{"site":"s"}'), Series("g/other", "y", "", '{"site":"s"}')]


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({"tags": {"a b": "c"}}, "be tags: the tag's name 'a b' must be a letter"),
        ({"mappings": [{"topic": "{site}/{site}/{device}"}]}, "name each tag once"),
        ({"mappings": [{"topic": "{1}/{device}"}]}, "name each tag once, by a letter"),
        ({"devices": {"a": {"name": "x"}, "b": {"name": "x"}}}, "names of devices must be different"),
        ({"devices": {"a": {"ignore": True, "name": "x"}}}, "ignore = true has nothing else"),
        ({"devices": {"a": {"rename": {"x": "z", "y": "z"}}}}, "rename must give different names"),
    ],
)
def test_mistakes_are_sentences(config: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        GatewayConfig.model_validate({"gateway": "g", "mqtt": {}, **config})

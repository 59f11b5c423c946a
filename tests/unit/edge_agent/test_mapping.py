"""Topic -> device, format and series ids; caches that may forget without harm."""

import pytest

from edge_agent import mapping
from edge_agent.config import Mapping
from edge_agent.mapping import DeviceSeries, Routes
from edge_agent.readings import Readings
from telemetry.columns import Series
from telemetry.errors import FieldlineError


class Ids:
    """A spool's series, as far as mapping knows it."""

    def __init__(self, series_max: int = 1000) -> None:
        self.known: dict[Series, int] = {}
        self.asked = 0
        self.series_max = series_max

    def __call__(self, series: Series) -> int:
        self.asked += 1
        if series not in self.known and len(self.known) >= self.series_max:
            raise FieldlineError("the spool knows series_max series")
        return self.known.setdefault(series, len(self.known))


def test_the_device_is_the_segment_that_the_pattern_names() -> None:
    ids = Ids()
    routes = Routes([Mapping(topic="plant/+/{device}/up", units={"p": "kW"}), Mapping()], ids)
    assert routes["plant/north/t1/up"]._series["p", "q"] == (0, 1)
    assert list(ids.known) == [Series("t1", "p", "kW"), Series("t1", "q", "")]
    assert routes["devices/t1/telemetry"]._series[("q",)] == (1,)


def test_the_metric_of_one_value_is_the_segments_that_the_pattern_names() -> None:
    ids = Ids()
    topics = ["home/{device}/{metric}/state", "homie/{device}/{metric}/{metric}", "raw/{device}/+"]
    routes = Routes([Mapping(topic=topic, format="text", units={"power": "W"}) for topic in topics], ids)
    readings = Readings()
    for topic in ("home/d/power/state", "homie/d/power/state", "raw/d/power"):
        assert routes[topic](b"1", 0, readings) is None
    assert list(ids.known) == [Series("d", "power", "W"), Series("d", "power/state", ""), Series("d", "value", "")]
    assert readings.series == [0, 1, 2]


def test_topics_of_a_device_never_share_a_series() -> None:
    ids = Ids()
    routes = Routes([Mapping(topic="{device}/{metric}/{metric}", format="text")], ids)
    for topic in ("d/a.b/c", "d/a/b.c", "d/a b/c", "d/a/b c"):
        assert routes[topic](b"1", 0, Readings()) is None
    assert len(ids.known) == 4


@pytest.mark.parametrize(("metric", "fault"), [("", "is empty"), ("x" * 129, "129 characters"), ("\x07", "printed")])
def test_a_topic_whose_metric_is_no_name(metric: str, fault: str) -> None:
    reason = Routes([Mapping(topic="{device}/{metric}", format="text")], Ids())[f"d/{metric}"](b"1", 0, Readings())
    assert reason is not None
    assert reason.startswith("the metric's name")
    assert fault in reason


def test_the_first_mapping_wins_and_coap_comes_last() -> None:
    ids = Ids()
    routes = Routes([Mapping(topic="telemetry/{device}", units={"p": "W"})], ids)
    assert routes["telemetry/m1"]._series[("p",)]
    assert Series("m1", "p", "W") in ids.known
    assert Routes([], ids)["telemetry/m1"]._series[("p",)]
    assert Series("m1", "p", "") in ids.known


@pytest.mark.parametrize("topic", ["", "x/y", "devices/a/telemetry/b", "devices/a", "Devices/a/telemetry", "/"])
def test_a_topic_without_a_mapping(topic: str) -> None:
    with pytest.raises(FieldlineError) as raised:
        Routes([Mapping()], Ids())[topic]
    assert str(raised.value) == f"topic {topic!r} matches no mapping in gateway.toml"


@pytest.mark.parametrize(
    ("device", "fault"),
    [
        ("", "is empty"),
        ("x" * 129, "has 129 characters, at most 128 are allowed"),
        ("a\x07b", "cannot be printed"),
        ("a\u2028b", "cannot be printed"),
        ("\ud800", "cannot be printed"),
    ],
)
def test_a_device_whose_name_is_no_name(device: str, fault: str) -> None:
    with pytest.raises(FieldlineError, match=fault):
        Routes([Mapping()], Ids())[f"devices/{device}/telemetry"]
    with pytest.raises(FieldlineError, match=fault):
        DeviceSeries("d", {}, Ids())["ok", device]


def test_names_in_any_language_are_names() -> None:
    assert Routes([Mapping()], Ids())["devices/Zähler 7 — 北/telemetry"]._series[("température",)]


def test_a_metric_with_a_bad_name_makes_no_series() -> None:
    ids = Ids()
    with pytest.raises(FieldlineError):
        DeviceSeries("d", {}, ids)["good", ""]
    assert not ids.known


def test_a_series_is_asked_for_once_per_topic() -> None:
    ids = Ids()
    series = Routes([Mapping()], ids)["devices/a/telemetry"]._series
    for _ in range(3):
        assert series["p", "q"] == (0, 1)
        assert series["q", "p", "r"] == (1, 0, 2)
    assert ids.asked == 3


def test_the_limit_of_series_is_the_spools() -> None:
    series = Routes([Mapping()], Ids(series_max=2))["devices/a/telemetry"]._series
    assert series["p", "q"] == (0, 1)
    for _ in range(2):
        with pytest.raises(FieldlineError, match="series_max"):
            series["p", "q", "r"]
    assert series["q", "p"] == (1, 0)


def test_what_is_evicted_is_resolved_again_to_the_same_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapping, "TOPICS_MAX", 2)
    monkeypatch.setattr(mapping, "SHAPES_MAX", 2)
    ids = Ids()
    routes = Routes([Mapping()], ids)
    for _ in range(3):
        for device in range(5):
            series = routes[f"devices/{device}/telemetry"]._series
            for metric in range(5):
                assert series[(f"m{metric}",)] == (device * 5 + metric,)
                assert len(series) <= 2
            assert len(routes) <= 2


def test_a_large_combination_is_not_kept() -> None:
    series = DeviceSeries("d", {}, Ids())
    many = tuple(f"m{i}" for i in range(mapping.SHAPE_METRICS_MAX + 1))
    assert len(series[many]) == len(many)
    assert many not in series

"""Topic -> device, format and series ids; caches that may forget without harm."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent import mapping
from edge_agent.config import Mapping
from edge_agent.mapping import DeviceSeries, Routes
from edge_agent.readings import DROPPED, Readings
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


def test_what_is_ignored_is_counted_and_nothing_else() -> None:
    ids = Ids()
    ignored = [Mapping(topic=topic, ignore=True) for topic in ("devices/{device}/+/debug", "bridge/#", "+/{metric}")]
    routes = Routes([*ignored, Mapping()], ids)
    topics = ["devices/a/x/debug", "bridge", "bridge/a", "bridge/a/b/c", "b/c"]
    for topic in topics:
        assert routes.ignores(topic)
        readings = Readings()
        assert routes[topic](b"not even JSON", 0, readings) is None
        assert not readings.value
    assert routes.ignored.count == len(topics)
    for topic in ("devices/a/telemetry", "a/b/c/d", "bridges/a/b"):
        assert not routes.ignores(topic)
    assert not ids.known


def test_only_some_metrics_are_taken_and_may_have_other_names() -> None:
    ids = Ids()
    chosen = Mapping(only=("t", "state"), rename={"t": "temperature"}, units={"temperature": "°C", "t": "K"})
    decode = Routes([chosen], ids)["devices/d/telemetry"]
    readings = Readings()
    for _ in range(3):  # the third is read by its shape
        assert decode(b'{"h": 1, "t": 2, "": 3, "state": "ok", "log": "x"}', 0, readings) is None
    assert list(ids.known) == [Series("d", "temperature", "°C"), Series("d", "state", "")]
    assert readings.series == [0, 1] * 3
    assert readings.value[::2] == [2.0] * 3
    assert readings.texts == {1: "ok", 3: "ok", 5: "ok"}
    assert len(readings.quality) == len(readings.measured_at) == 6
    assert decode(b'{"h": 1}', 0, readings) is None
    assert len(readings.value) == 6


def test_a_name_that_rename_gives_away_is_taken() -> None:
    ids = Ids()
    decode = Routes([Mapping(rename={"t": "temperature", "a": "b", "b": "a"})], ids)["devices/d/telemetry"]
    for payload in (b'{"temperature": 1}', b'{"t": 1, "temperature": 2}'):
        reason = decode(payload, 0, Readings())
        assert reason == "the metric 'temperature' has the name that rename gives to another"
    assert not ids.known
    assert decode(b'{"t": 1, "a": 2, "b": 3}', 0, Readings()) is None
    assert [series.metric for series in ids.known] == ["temperature", "b", "a"]


def test_names_that_are_not_taken_are_not_remembered() -> None:
    series = DeviceSeries("d", {}, Ids(), only=("t",))
    for n in range(1000):
        assert series["t", f"m{n}"] == (0, DROPPED)
    assert len(series) <= mapping.SHAPES_MAX
    assert len(series._ids) == 1


@given(st.lists(st.tuples(st.sampled_from([DROPPED, 0, 1]), st.floats(0, 9) | st.text(max_size=1))), st.integers(0, 9))
def test_what_is_dropped_takes_nothing_else_along(some: list[tuple[int, float | str]], start: int) -> None:
    readings = Readings()
    for id_, value in some:
        text = {0: value} if isinstance(value, str) else None
        readings.add([id_], [0.0 if text else value], 5, 1, text)  # type: ignore[list-item]
    readings.drop(start)
    kept = [(id_, value) for at, (id_, value) in enumerate(some) if at < start or id_ != DROPPED]
    got = [(id_, readings.texts.get(at, readings.value[at])) for at, id_ in enumerate(readings.series)]
    assert got == kept
    assert len(readings.texts) == sum(isinstance(value, str) for _, value in kept)
    assert (readings.measured_at, readings.quality) == ([5] * len(kept), [1] * len(kept))


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

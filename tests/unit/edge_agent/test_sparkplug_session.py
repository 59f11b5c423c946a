"""Sparkplug's sessions: every rule by example, and all of them against a model."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tahutils.tahu.sparkplug_b_pb2 import Payload

from edge_agent.config import Sparkplug
from edge_agent.readings import Readings
from edge_agent.sparkplug import session
from edge_agent.sparkplug.room import Room
from telemetry.columns import TIME_FROM_DEVICE, TIME_FROM_GATEWAY, VALUE_STALE, Series
from telemetry.errors import FieldlineError
from tests.records import NEW_YEAR_MS
from tests.sparkplug import BOOLEAN, DOUBLE, INT32, STRING, Ids, bd_seq, payload, values

ON, OFF = ("sparkplug/online", 1.0), ("sparkplug/online", 0.0)
LEVEL = {"name": "Tank/Level", "alias": 1, "datatype": DOUBLE, "double_value": 0.5}
STATE = {"name": "State", "alias": 2, "datatype": STRING, "string_value": "ok"}
NBIRTH, DBIRTH = [bd_seq(4), LEVEL, STATE], [{"name": "Speed", "alias": 3, "datatype": INT32, "int_value": 7}]


class Host:
    """A room that is told one message after another, a second apart."""

    def __init__(self, births: dict[str, bytes] | None = None, **config: Any) -> None:
        self.ids = Ids()
        self.births: dict[str, bytes] = births or {}
        self.room = Room(
            Sparkplug.model_validate({"rebirth_interval_s": 0.001, **config}), self.ids.__getitem__, self.births
        )
        self.now_ms = NEW_YEAR_MS
        self.commands: list[tuple[str, bytes]] = []
        self.reason: str | None = None
        self.readings = Readings()

    def tell(
        self,
        kind: str,
        *metrics: dict[str, Any],
        device: str = "",
        node: str = "n",
        raw: bytes | None = None,
        **more: Any,
    ) -> list[tuple[str, str, float | str]]:
        """The readings; `reason` has why some are none, `commands` what is to be published."""
        self.now_ms += 1000
        self.readings = Readings()
        topic = "/".join(filter(None, ("spBv1.0", "g", kind, node, device)))
        decode = self.room.decoder(topic)
        assert decode is not None
        self.reason = decode(payload(*metrics, **more) if raw is None else raw, self.now_ms, self.readings)
        todo = self.room.take()
        self.commands = todo.commands
        for remembered, content in todo.births.items():
            self.births.pop(remembered, None)
            if content is not None:
                self.births[remembered] = content
        return values(self.ids.named(self.readings))

    def born(self) -> "Host":
        """With a node and a device d."""
        self.tell("NBIRTH", *NBIRTH, seq=0)
        self.tell("DBIRTH", *DBIRTH, device="d", seq=1)
        assert not self.commands
        return self

    def restarted(self) -> "Host":
        return Host(self.births)


def test_births_are_readings_and_what_follows_may_say_aliases() -> None:
    host = Host()
    assert host.tell("NBIRTH", *NBIRTH, seq=0) == [
        ("g/n", *ON),
        ("g/n", "bdSeq", 4),
        ("g/n", "Tank/Level", 0.5),
        ("g/n", "State", "ok"),
    ]
    assert host.tell("DBIRTH", *DBIRTH, device="d", seq=1) == [("g/n/d", *ON), ("g/n/d", "Speed", 7)]
    assert host.tell("NDATA", {"alias": 1, "double_value": 0.75}, seq=2) == [("g/n", "Tank/Level", 0.75)]
    assert host.tell("DDATA", {"alias": 3, "int_value": 2**32 - 1}, device="d", seq=3) == [("g/n/d", "Speed", -1)]
    assert host.tell("NDATA", {"name": "State", "string_value": "bad"}, seq=4) == [("g/n", "State", "bad")]
    assert host.reason is None
    assert not host.commands


def test_a_metric_has_its_own_time_else_the_payloads_else_its_arrival() -> None:
    host = Host().born()
    host.tell(
        "NDATA",
        {"alias": 1, "double_value": 1.0, "timestamp": NEW_YEAR_MS - 60_000, "is_historical": True},
        {"alias": 1, "double_value": 2.0},
        {"alias": 1, "double_value": 3.0, "timestamp": 1000},
        seq=2,
        at_ms=NEW_YEAR_MS + 5,
    )
    assert [(value, at, quality) for _, _, value, at, quality in host.ids.named(host.readings)] == [
        (1.0, NEW_YEAR_MS - 60_000, TIME_FROM_DEVICE),
        (2.0, NEW_YEAR_MS + 5, TIME_FROM_DEVICE),
        (3.0, NEW_YEAR_MS + 5, TIME_FROM_DEVICE),
    ]
    host.tell("NDATA", {"alias": 1, "double_value": 4.0}, seq=3, at_ms=17)
    assert [reading[3:] for reading in host.ids.named(host.readings)] == [(host.now_ms, TIME_FROM_GATEWAY)]


def test_quality_is_that_of_the_value_and_of_the_time() -> None:
    stale = {"keys": ["Quality"], "values": [{"type": 3, "int_value": 500}]}
    host = Host().born()
    host.tell("NDATA", {"alias": 1, "double_value": 1.0, "properties": stale}, seq=2)
    assert host.readings.quality == [VALUE_STALE]
    host.tell("NDATA", {"alias": 1, "double_value": 1.0, "properties": stale}, seq=3, at_ms=None)
    assert host.readings.quality == [VALUE_STALE | TIME_FROM_GATEWAY]


def test_the_unit_is_what_the_birth_says() -> None:
    unit = {"keys": ["engUnit"], "values": [{"type": 12, "string_value": "m"}]}
    host = Host()
    host.tell("NBIRTH", {**LEVEL, "properties": unit}, seq=0)
    host.tell("NDATA", {"alias": 1, "double_value": 1.0}, seq=1)
    assert Series("g/n", "Tank/Level", "m") in host.ids
    assert len(host.ids) == 2


def test_null_and_transient_are_no_readings_and_no_loss() -> None:
    host = Host()
    passing = {"name": "Log", "alias": 5, "datatype": STRING, "is_transient": True, "string_value": "x"}
    nothing = {"name": "Gust", "alias": 6, "datatype": DOUBLE, "is_null": True}
    assert host.tell("NBIRTH", bd_seq(0), passing, nothing, seq=0) == [("g/n", *ON), ("g/n", "bdSeq", 0)]
    assert host.tell("NDATA", {"alias": 5, "string_value": "y"}, {"alias": 6, "double_value": 1.5}, seq=1) == [
        ("g/n", "Gust", 1.5)
    ]
    assert host.reason is None


def test_what_is_no_reading_is_kept_beside_the_readings_of_the_rest() -> None:
    host = Host().born()
    file = {"name": "Log", "datatype": 18, "bytes_value": b"x"}
    assert host.tell("NDATA", file, {"alias": 1, "double_value": 1.0}, seq=2) == [("g/n", "Tank/Level", 1.0)]
    assert host.reason == (
        "metric 'Log' is File, which is no reading (1 of 2 metrics are no readings, the others were taken)"
    )
    assert host.tell("NDATA", {"alias": 1, "int_value": 1}, seq=3) == []
    assert host.reason == "metric 'Tank/Level' is Double, and its value is not"


def test_a_body_is_kept() -> None:
    host = Host().born()
    compressed = Payload(seq=2, uuid="SPBV1.0_COMPRESSED", body=b"x").SerializeToString()
    assert host.tell("NDATA", raw=compressed) == []
    assert host.reason == "the payload has a body, which is no reading"


def test_a_data_set_is_a_reading_for_each_cell() -> None:
    rows = [{"elements": [{"int_value": 3}, {"string_value": "a"}]}, {"elements": [{"int_value": 4}, {}]}]
    table = {"num_of_columns": 2, "columns": ["n", "who"], "types": [3, 12], "rows": rows}
    host = Host()
    assert host.tell("NBIRTH", {"name": "Alarms", "alias": 9, "datatype": 16, "dataset_value": table}, seq=0) == [
        ("g/n", *ON),
        ("g/n", "Alarms/0/n", 3),
        ("g/n", "Alarms/0/who", "a"),
        ("g/n", "Alarms/1/n", 4),
    ]


def test_a_death_ends_the_session_and_all_devices() -> None:
    host = Host().born()
    assert host.tell("NDEATH", bd_seq(4), at_ms=NEW_YEAR_MS - 9) == [("g/n/d", *OFF), ("g/n", *OFF)]
    assert host.readings.measured_at == [host.now_ms] * 2
    assert host.births == {}
    assert host.tell("NDATA", {"alias": 1, "double_value": 1.0}, seq=2) == []
    assert host.reason == "alias 1 is in no birth certificate of the session"
    assert host.tell("NDEATH", bd_seq(4)) == [("g/n", *OFF)]


def test_a_death_that_comes_after_the_next_birth_changes_nothing() -> None:
    host = Host().born()
    assert host.tell("NDEATH", bd_seq(3)) == []
    assert host.reason == "the NDEATH has bdSeq 3, the session has 4: it came late, nothing has died"
    assert host.tell("NDATA", {"alias": 1, "double_value": 1.0}, seq=2) == [("g/n", "Tank/Level", 1.0)]
    assert not host.commands


def test_a_devices_death_has_the_payloads_time() -> None:
    host = Host().born()
    assert host.tell("DDEATH", device="d", seq=2, at_ms=NEW_YEAR_MS - 9) == [("g/n/d", *OFF)]
    assert host.readings.measured_at == [NEW_YEAR_MS - 9]
    assert list(host.births) == ["spBv1.0/g/NBIRTH/n"]
    assert host.tell("DDATA", {"alias": 3, "int_value": 1}, device="d", seq=3) == []
    assert host.commands


def test_a_rebirth_replaces_what_births_said_and_blinks_no_device() -> None:
    host = Host().born()
    swapped = [{**LEVEL, "alias": 2}, {**STATE, "alias": 1}]
    assert ("g/n/d", *OFF) not in host.tell("NBIRTH", bd_seq(4), *swapped, seq=0)
    assert list(host.births) == ["spBv1.0/g/NBIRTH/n"], "the device is born anew, too"
    assert host.tell("DBIRTH", *DBIRTH, device="d", seq=1) == [("g/n/d", *ON), ("g/n/d", "Speed", 7)]
    assert host.tell("NDATA", {"alias": 2, "double_value": 9.0}, seq=2) == [("g/n", "Tank/Level", 9.0)]


def test_a_new_session_whose_death_was_not_heard_ends_the_devices_of_the_former() -> None:
    host = Host().born()
    assert host.tell("NBIRTH", bd_seq(5), seq=0) == [("g/n/d", *OFF), ("g/n", *ON), ("g/n", "bdSeq", 5)]


@pytest.mark.parametrize(("seq", "asks"), [(2, False), (3, True), (1, True), (None, False)])
def test_a_gap_asks_for_a_rebirth_and_values_are_taken_all_the_same(seq: int | None, asks: bool) -> None:
    host = Host().born()
    assert host.tell("NDATA", {"alias": 1, "double_value": 1.0}, seq=seq) == [("g/n", "Tank/Level", 1.0)]
    assert bool(host.commands) is asks
    assert [topic for topic, _ in host.commands] == ["spBv1.0/g/NCMD/n"] * asks


def test_seq_wraps_at_256() -> None:
    host = Host()
    host.tell("NBIRTH", *NBIRTH, seq=255)
    host.tell("NDATA", {"alias": 1, "double_value": 1.0}, seq=0)
    assert not host.commands


def test_messages_without_a_birth_ask_for_one_and_take_what_explains_itself() -> None:
    host = Host()
    assert host.tell("DDATA", {"name": "v", "datatype": DOUBLE, "double_value": 2.0}, device="d", seq=7) == [
        ("g/n/d", "v", 2.0)
    ]
    assert host.reason is None
    assert host.commands
    assert host.tell("DBIRTH", *DBIRTH, device="d", seq=8) == [("g/n/d", *ON), ("g/n/d", "Speed", 7)]
    assert host.commands, "of the node there is none yet"
    assert not host.tell("NDATA", {"name": "v", "double_value": 2.0}, seq=9)
    assert host.reason == "metric 'v' is in no birth certificate of the session"


def test_a_metric_that_no_birth_named_asks_for_a_rebirth() -> None:
    host = Host().born()
    new = {"name": "New", "datatype": BOOLEAN, "boolean_value": True}
    assert host.tell("NDATA", new, seq=2) == [("g/n", "New", 1.0)]
    assert host.commands


def test_after_a_restart_aliases_are_known_and_a_rebirth_is_asked_for() -> None:
    host = Host().born().restarted()
    assert host.tell("DDATA", {"alias": 3, "int_value": 1}, device="d", seq=2) == [("g/n/d", "Speed", 1)]
    assert host.commands
    assert host.tell("NDEATH", bd_seq(3)) == [], "the session is known, too"


def test_a_birth_that_cannot_be_read_takes_its_place_from_the_one_before() -> None:
    host = Host().born()
    assert host.tell("NBIRTH", raw=b"\x08") == []
    assert host.reason == "the payload is no Sparkplug B payload: it is cut off"
    assert host.births == {}
    assert host.tell("NDATA", {"alias": 1, "double_value": 1.0}, seq=1) == []
    host = Host().born()
    host.room.missed("spBv1.0/g/DBIRTH/n/d")
    host.tell("NDATA", seq=2)
    assert list(host.births) == ["spBv1.0/g/NBIRTH/n"]


def test_a_name_that_is_none_and_a_spool_without_room_cost_only_themselves() -> None:
    host = Host()
    long = {"name": "x" * 129, "alias": 8, "datatype": DOUBLE, "double_value": 1.0}
    assert ("g/n", "Tank/Level", 0.5) in host.tell("NBIRTH", long, LEVEL, seq=0)
    assert host.reason is not None
    assert host.reason.startswith("the metric's name 'xxxxx")

    def full(series: Series) -> int:
        raise FieldlineError("series_max")

    host.room._members["g", "n"].session._series_id = full
    assert host.tell("NDATA", {"alias": 1, "double_value": 1.0}, seq=1) != [], "this one has an id"
    assert host.tell("NBIRTH", STATE, seq=0) == []
    assert host.reason == "series_max"


def test_devices_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "DEVICES_MAX", 1)
    host = Host().born()
    with pytest.raises(FieldlineError, match="already has 1 devices"):
        host.tell("DBIRTH", *DBIRTH, device="e", seq=2)


class Model:
    """What the module's docstring says, in other words: of one node and two devices, whose metrics are called by alias.

    A birth gives its metrics the aliases 0, 1 … in an order of its choice.
    """

    def __init__(self) -> None:
        self.aliases: dict[str, list[str]] = {}
        self.online: list[str] = []
        self.session: int | None = None
        self.seq: int | None = None
        self.asks = False

    def path(self, device: str) -> str:
        return f"g/n/{device}" if device else "g/n"

    def next(self, seq: int) -> None:
        self.asks |= self.seq is not None and seq != (self.seq + 1) % 256
        self.seq = seq

    def nbirth(self, session: int, order: list[str], seq: int) -> set[tuple[str, str, float]]:
        ended = self.online if self.session not in (None, session) else []
        self.online = [] if ended else self.online
        self.aliases, self.session, self.seq, self.asks = {"": order}, session, seq, False
        own = {("g/n", "bdSeq", float(session)), ("g/n", *ON)}
        return own | {(self.path(d), *OFF) for d in ended} | {("g/n", name, 0.0) for name in order}

    def dbirth(self, device: str, order: list[str], seq: int) -> set[tuple[str, str, float]]:
        self.next(seq)
        self.asks |= "" not in self.aliases
        self.aliases[device] = order
        self.online += [device] if device not in self.online else []
        return {(self.path(device), *ON)} | {(self.path(device), name, 0.0) for name in order}

    def data(self, device: str, alias: int, value: float, seq: int) -> set[tuple[str, str, float]]:
        self.next(seq)
        self.asks |= "" not in self.aliases or device not in self.aliases
        known = self.aliases.get(device, [])
        self.asks |= alias >= len(known)
        return {(self.path(device), known[alias], value)} if alias < len(known) else set()

    def ddeath(self, device: str, seq: int) -> set[tuple[str, str, float]]:
        self.next(seq)
        self.asks |= "" not in self.aliases
        self.aliases.pop(device, None)
        self.online = [d for d in self.online if d != device]
        return {(self.path(device), *OFF)}

    def ndeath(self, session: int) -> set[tuple[str, str, float]]:
        if self.session not in (None, session):
            return set()
        ended = [*self.online, ""]
        self.__init__()
        return {(self.path(d), *OFF) for d in ended}

    def restart(self) -> None:
        """Births survive, and so does that the devices that they are of were online."""
        self.asks = bool(self.aliases)
        self.seq = None
        self.session = self.session if "" in self.aliases else None
        self.online = [d for d in self.online if d in self.aliases]


names = st.permutations(["a", "b", "c"]).flatmap(lambda order: st.integers(1, 3).map(lambda n: order[:n]))
devices, sessions, skips = st.sampled_from(["", "d", "e"]), st.integers(0, 2), st.sampled_from([0] * 9 + [1, 200])
data = st.tuples(st.just("DATA"), devices, st.sampled_from([0, 0, 0, 1, 2, 3]), st.integers(0, 99).map(float), skips)
event = st.one_of(
    st.tuples(st.just("NBIRTH"), sessions, names),
    st.tuples(st.just("DBIRTH"), st.sampled_from(["d", "e"]), names, skips),
    *[data] * 5,
    st.tuples(st.just("DDEATH"), st.sampled_from(["d", "e"]), skips),
    st.tuples(st.just("NDEATH"), sessions),
    st.tuples(st.just("restart")),
)
whole = st.tuples(sessions, names, names).map(
    lambda of: [("NBIRTH", of[0], of[1]), ("DBIRTH", "d", of[2], 0), ("DBIRTH", "e", of[1], 0)]
)
"""A session as it should begin."""
runs = st.lists(st.one_of(whole, st.lists(event, max_size=6)), max_size=6)


@settings(max_examples=300)
@given(runs.map(lambda parts: [event for part in parts for event in part]))
def test_a_session_does_what_the_model_does(happened: list[tuple[Any, ...]]) -> None:
    host, model, seq = Host(), Model(), 0

    def births(order: list[str]) -> list[dict[str, Any]]:
        return [
            {"name": name, "alias": alias, "datatype": DOUBLE, "double_value": 0.0} for alias, name in enumerate(order)
        ]

    for kind, *what in happened:
        if kind == "restart":
            host = host.restarted()
            model.restart()
            continue
        if kind in ("DBIRTH", "DATA", "DDEATH"):
            seq = (seq + 1 + what.pop()) % 256
        match kind, what:
            case "NBIRTH", [number, order]:
                seq = 0
                got = host.tell("NBIRTH", bd_seq(number), *births(order), seq=0)
                expected = model.nbirth(number, order, seq)
            case "DBIRTH", [device, order]:
                got = host.tell("DBIRTH", *births(order), device=device, seq=seq)
                expected = model.dbirth(device, order, seq)
            case "DATA", [device, alias, value]:
                metric = {"alias": alias, "double_value": value}
                got = host.tell("DDATA" if device else "NDATA", metric, device=device, seq=seq)
                expected = model.data(device, alias, value, seq)
                assert (host.reason is None) is bool(expected)
            case "DDEATH", [device]:
                got = host.tell("DDEATH", device=device, seq=seq)
                expected = model.ddeath(device, seq)
            case "NDEATH", [number]:
                got = host.tell("NDEATH", bd_seq(number))
                expected = model.ndeath(number)
                assert (host.reason is None) is bool(expected)
        assert len(got) == len(set(got))
        assert set(got) == expected
        assert bool(host.commands) is model.asks
        born = {topic.split("/", 4)[-1] if "/DBIRTH/" in topic else "" for topic in host.births}
        assert born == set(model.aliases)

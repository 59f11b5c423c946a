"""The drill's mixed devices: what they send is what they say, and their checker finds each kind of difference."""

import json
from pathlib import Path

import pytest

from edge_agent.config import load
from edge_agent.decode import Decoder
from proof.coap_wire import BLOCK1, CON, CONTENT_FORMAT, POST, URI_PATH, Datagram, Options, decode, number
from proof.mixed_checker import Findings, Row, judge
from proof.payloads import ENCODERS
from proof.rules import AGGREGATES, FORMATS, METRICS, gateway_toml, topic
from telemetry.columns import Columns, Series
from telemetry.delivery import Chunk
from tests.coap import message

NOW_MS = 1_767_225_600_000
BAD = 2
VALUES = dict(zip(METRICS, (1.25, 30.0, 0.5, 4.0, -2.5, 7.0), strict=True))
DEVICE = "drill-csv"


@pytest.mark.parametrize("fmt", FORMATS)
def test_each_format_says_its_values_under_the_rules(fmt: str, tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text('gateway = "g"\n' + gateway_toml(resources_port=1, dtls_port=2, psk_file="x") + "[mqtt]\n[coap]\n")
    ids: dict[Series, int] = {}
    decoder = Decoder(load(path), lambda series: ids.setdefault(series, len(ids)))
    columns = Columns()
    payload = ENCODERS[fmt](NOW_MS + 123, VALUES)
    assert not decoder.decode(Chunk(NOW_MS + 500, [topic(fmt, DEVICE)], [payload], [0]), columns)
    names = [series.metric for series in ids]
    said = {
        names[id_]: (value, quality)
        for id_, value, quality in zip(columns.series, columns.value, columns.quality, strict=True)
    }
    assert set(columns.measured_at) == {NOW_MS + 123}
    assert said == {"plain": (1.25, 0), "scaled": (16.0, BAD), "band": (0.5, 0), "rare": (4.0, 0), "both": (7.0, 0)}
    assert decoder.thinned == 1, "win is in its window"


def test_a_datagram_is_what_the_tests_own_device_sends() -> None:
    options: Options = ((URI_PATH, b"telemetry"), (URI_PATH, b"a-device-with-a-name"), (CONTENT_FORMAT, number(50)))
    options += ((BLOCK1, number(0x1A)),)
    made = Datagram(CON, POST, 7, b"tok", options, b"{}")
    theirs = message(
        "telemetry/a-device-with-a-name",
        b"{}",
        mid=7,
        token=b"tok",
        options=((CONTENT_FORMAT, b"\x32"), (BLOCK1, b"\x1a")),
    )
    assert made.encode() == theirs
    assert decode(theirs) == made


def row(metric: str, at: int, value: float, quality: int = 0, seq: int = 1) -> Row:
    return Row(DEVICE, metric, NOW_MS + at, value, quality, "e", seq)


def window(metric: str, at: int, values: list[float], seq: int) -> list[Row]:
    """The aggregates of one window, as the agent spools them."""
    mean = sum(values) / len(values)
    stddev = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    said = (len(values), min(values), max(values), mean, values[-1], stddev)
    return [
        row(f"{metric}.{name}", at, value, seq=seq + place)
        for place, (name, value) in enumerate(zip(AGGREGATES, said, strict=True))
    ]


MESSAGES = [
    (0, {"plain": 1.0, "scaled": 30.0, "band": 0.0, "rare": 1.0, "win": 1.0, "both": 1.0}),
    (500, {"plain": 1.0, "scaled": 8.0, "band": 0.9, "rare": 2.0, "win": 5.0, "both": 5.0}),
    (1500, {"plain": 2.0, "scaled": 9.0, "band": 1.1, "rare": 3.0, "win": 9.0, "both": 9.0}),
    (6000, {"plain": 3.0, "scaled": 1.0, "band": 1.2, "rare": 4.0, "win": 2.0, "both": 2.0}),
]
STORED = [
    *(row("plain", at, values["plain"]) for at, values in MESSAGES),
    *(row("scaled", at, values["scaled"] * 0.5 + 1, BAD * (values["scaled"] > 18)) for at, values in MESSAGES),
    *(row("both", at, values["both"]) for at, values in MESSAGES),
    row("band", 0, 0.0),
    row("band", 1500, 1.1),
    row("rare", 0, 1.0),
    row("rare", 1500, 3.0),
    row("rare", 6000, 4.0),
    *window("win", 0, [1.0, 5.0, 9.0], 10),
    *window("both", 0, [1.0, 5.0, 9.0], 20),
]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    path = tmp_path / "mixed.jsonl"
    entries = [
        {"via": "MQTT", "device": DEVICE, "ts": NOW_MS + at, "values": values, "promise": "once"}
        for at, values in MESSAGES
    ]
    path.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return path


def test_what_the_rules_leave_out_is_no_difference_and_is_counted(journal: Path) -> None:
    findings = judge(journal, STORED)
    assert findings.sentences() == findings.wrong == []
    assert findings.left_out == 2 + 1 + 4  # of band, rare and win
    assert (findings.promised["MQTT"], findings.found["MQTT"]) == (24, 24)
    assert findings.lacking(0) == 0


def is_right(findings: Findings) -> bool:
    return not findings.lacking(0) and not findings.wrong


def without(metric: str, at: int) -> list[Row]:
    return [other for other in STORED if (other.metric, other.at_ms) != (metric, NOW_MS + at)]


def test_what_is_missing_is_found_also_among_what_may_be_left_out(journal: Path) -> None:
    for metric, at in (("plain", 500), ("scaled", 0), ("both", 6000), ("band", 1500), ("rare", 1500)):
        findings = judge(journal, without(metric, at))
        assert findings.lacking(1) == 1, (metric, at)


def test_a_wrong_value_a_wrong_quality_and_a_second_copy_are_found(journal: Path) -> None:
    for wrong in (row("plain", 0, 1.5), row("scaled", 500, 5.0, BAD), row("rare", 1500, 3.0), row("plain.x", 0, 1.0)):
        findings = judge(journal, [*STORED, wrong])
        assert findings.wrong, wrong
        assert findings.double == (wrong.metric != "plain.x")


def test_a_window_that_lacks_a_reading_or_has_one_twice_is_found(journal: Path) -> None:
    rest = [other for other in STORED if not other.metric.startswith("win.")]
    lacking = judge(journal, [*rest, *window("win", 0, [1.0, 9.0], 10)])
    assert lacking.short.total() == 1
    assert (lacking.lacking(0), lacking.lacking(1)) == (1, 0), (
        "a spool that was moved aside took its open window with it"
    )
    assert judge(journal, rest).short.total() == 1, "the window is not there at all"
    for values in ([1.0, 5.0, 5.0, 9.0], [1.0, 4.0, 9.0], [1.0, 5.0, 9.5]):
        assert judge(journal, [*rest, *window("win", 0, values, 10)]).wrong, values
    torn = [*window("win", 0, [1.0], 10), *window("win", 0, [5.0, 9.0], 30)]
    assert is_right(judge(journal, [*rest, *torn])), "closed by silence, and begun again"


def test_a_reading_too_late_for_its_window_is_in_the_table_instead(journal: Path) -> None:
    rest = [other for other in STORED if "." not in other.metric]
    late = [row("win", 500, 5.0), *window("win", 0, [1.0, 9.0], 10), *window("both", 0, [1.0, 9.0], 20)]
    assert is_right(judge(journal, [*rest, *late]))
    both = [row("win", 500, 5.0), *window("win", 0, [1.0, 5.0, 9.0], 10), *window("both", 0, [1.0, 9.0], 20)]
    assert judge(journal, [*rest, *both]).wrong, "in its window and in the table"

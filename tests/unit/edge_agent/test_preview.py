"""What one message would become, as people see it; and the payload that a command line means."""

import io
from pathlib import Path

import pytest

from edge_agent.config import Coap, GatewayConfig, Mapping, Mqtt, Process, Sparkplug
from edge_agent.preview import Preview, payload_of, try_message
from telemetry.errors import FieldlineError
from tests.sparkplug import DOUBLE, bd_seq, payload

NOW = 1_767_225_600_000


def config(*mappings: Mapping) -> GatewayConfig:
    return GatewayConfig(gateway="g", mqtt=Mqtt(), coap=Coap(), mappings=mappings)


def test_readings_and_the_mapping_that_takes_them() -> None:
    preview = Preview(config(Mapping(units={"power": "kW"}), Mapping(topic="{device}/{metric}", format="text")))
    payload = b'{"ts": "2025-12-31T12:00:00.5Z", "power": 1830.25, "state": "ok", "gust": null}'
    fate = preview("devices/t1/telemetry", payload, NOW)
    assert fate.mapping == "mappings.0, topic devices/{device}/telemetry, format json"
    assert fate.readings == [
        ("t1", "power", "1830.25", "kW", "2025-12-31T12:00:00.500Z", "time of the device", ""),
        ("t1", "state", "'ok'", "", "2025-12-31T12:00:00.500Z", "time of the device", ""),
    ]
    assert preview("lamp/power", b"on", NOW).readings == [
        ("lamp", "power", "1", "", "2026-01-01T00:00:00.000Z", "time of arrival", "")
    ]
    assert Preview(config())("telemetry/t1", b"{}", NOW).mapping.startswith("CoAP's own, topic telemetry/{device}")


def test_what_the_rules_make_of_it_and_what_they_leave_out() -> None:
    rule = Process(metric="t", scale=2, unit="V", value_max=1, deadband=1)
    preview = Preview(config(Mapping()).model_copy(update={"process": (rule,)}))
    payload = b'{"t": 2, "u": 2}'
    [changed, other] = preview("devices/d/telemetry", payload, NOW).readings
    assert changed[1:4] == ("t", "4", "V")
    assert changed[5] == "time of arrival, bad value"
    fate = preview("devices/d/telemetry", payload, NOW + 1)
    assert [row[:4] for row in fate.readings] == [other[:4]]
    assert fate.silence == "readings left out, as [[process]] says: 1"


def test_what_is_ignored() -> None:
    preview = Preview(config(Mapping(topic="a/#", ignore=True), Mapping(topic="b/{device}", only=("x",))))
    assert preview("a/b", b"?", NOW) == ("mappings.0, topic a/#", [], None, "ignored, as the mapping says")
    assert preview("b/d", b'{"y": 1}', NOW).silence == "no reading: it has no value that is taken"


def test_sparkplug_is_read_with_the_births_that_came_before() -> None:
    preview = Preview(GatewayConfig(gateway="g", mqtt=Mqtt(), sparkplug=Sparkplug()))
    alone = preview("spBv1.0/G/NDATA/n", payload({"alias": 7, "datatype": DOUBLE, "double_value": 2.5}, seq=1), NOW)
    assert alone.mapping == "none, but the section sparkplug"
    assert alone.readings == []
    assert alone.reason is not None
    level = {"name": "level", "alias": 7, "datatype": DOUBLE, "double_value": 1.5}
    file = {"name": "file", "datatype": 18, "bytes_value": b"x"}
    born = preview("spBv1.0/G/NBIRTH/n", payload(bd_seq(0), level, file, seq=0), NOW)
    assert ("G/n", "level", "1.5", "", "2026-01-01T00:00:00.000Z", "time of the device", "") in born.readings
    assert born.reason is not None
    assert "File" in born.reason
    then = preview("spBv1.0/G/NDATA/n", payload({"alias": 7, "double_value": 2.5}, seq=1), NOW)
    assert [row[:3] for row in then.readings] == [("G/n", "level", "2.5")]
    assert then.reason is None


def test_dead_letters_and_why() -> None:
    preview = Preview(config(Mapping()))
    assert preview("x/y", b"1", NOW)[:3] == ("none", [], "topic 'x/y' matches no mapping in gateway.toml")
    assert preview("devices/d/telemetry", b"", NOW).reason == "the payload is empty"
    assert preview("devices/d/telemetry", b"{", NOW, 300_000).reason == (
        "the payload has 300000 bytes, payload_bytes_max is 262144"
    )


def test_series_have_the_limit_of_the_config() -> None:
    few = GatewayConfig.model_validate({"gateway": "g", "coap": {}, "collect": {"series_max": 1}})
    preview = Preview(few)
    assert preview("telemetry/d", b'{"a": 1}', NOW).readings
    assert preview("telemetry/d", b'{"b": 1}', NOW).reason == "it would be one series more than series_max, 1"


def test_what_is_tried_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    try_message(config(Mapping()), "devices/d/telemetry", b'{"[red]": 1}')
    out = capsys.readouterr().out
    assert out.startswith("mapping: mappings.0, topic devices/{device}/telemetry, format json\n┏")
    assert "│ d      │ [red]  │     1 │      │" in out
    try_message(config(Mapping(topic="x/{device}")), "x/y", b'{"a": null}')
    assert capsys.readouterr().out.splitlines()[1:] == [
        "No message comes to 'x/y': mqtt.topics does not have it. Tried all the same:",
        "It would be acknowledged and give nothing: no reading: it has no value that is taken.",
    ]
    with pytest.raises(FieldlineError, match="it would become a dead letter: the payload is empty"):
        try_message(config(Mapping()), "devices/d/telemetry", b"")


def test_payloads_of_a_command_line(tmp_path: Path) -> None:
    stdin = io.BytesIO(b"\xff\x00")
    assert payload_of("-", stdin, is_hex=False) == b"\xff\x00"
    assert payload_of("21.5 °C", stdin, is_hex=False) == "21.5 °C".encode()
    assert payload_of("\udcff", stdin, is_hex=False) == b"\xff"
    assert payload_of("0a 1B\n", stdin, is_hex=True) == b"\x0a\x1b"
    (tmp_path / "hex").write_text("0a1b\n")
    assert payload_of(f"@{tmp_path}/hex", stdin, is_hex=True) == b"\x0a\x1b"
    for wrong in ("0a1", "xy", "\udcff"):
        with pytest.raises(FieldlineError, match="pairs of hexadecimal digits"):
            payload_of(wrong, stdin, is_hex=True)
    with pytest.raises(FieldlineError, match="cannot read the payload from nope: No such file or directory"):
        payload_of("@nope", stdin, is_hex=False)

"""`edge check`: findings beyond syntax, and what one message would become."""

from pathlib import Path

from edge_agent.check import check, is_collected
from edge_agent.config import Coap, GatewayConfig


def findings(tmp_path: Path, text: str) -> list[str]:
    path = tmp_path / "gateway.toml"
    path.write_text(f"gateway = 'g'\nspool.free_bytes_min = 0\n{text}")
    found = check(path)
    assert all(line.startswith(f"{path}: ") for line in found)
    return [line.removeprefix(f"{path}: ") for line in found]


def test_a_good_config_has_no_findings(tmp_path: Path) -> None:
    assert findings(tmp_path, "coap = {}\nmqtt = {}") == []


def test_a_shared_subscription_counts_as_its_topic(tmp_path: Path) -> None:
    assert findings(tmp_path, "mqtt.topics = ['$share/agents/devices/+/telemetry']") == []


def test_config_errors_are_findings(tmp_path: Path) -> None:
    assert findings(tmp_path, "coap = {}\nuplink.batch_age_s_max = -1") == [
        "uplink.batch_age_s_max must be >= 0, got -1"
    ]


def test_a_topic_that_no_mapping_covers(tmp_path: Path) -> None:
    [none, some] = findings(tmp_path, "mqtt.topics = ['plant/+/state', 'devices/#', 'devices/a/telemetry']")
    assert "'plant/+/state' brings messages, and no mapping matches them" in none
    assert "'devices/#' brings some messages that no mapping matches" in some


def test_sparkplug_takes_its_namespace_and_must_be_fed(tmp_path: Path) -> None:
    assert findings(tmp_path, "mqtt.topics = ['spBv1.0/#', 'spBv1.0/+/NBIRTH/+']\nsparkplug = {}") == []
    assert len(findings(tmp_path, "mqtt.topics = ['spBv1.0/#']")) == 1
    assert findings(tmp_path, "mqtt = {}\nsparkplug = {}") == [
        "sparkplug: no message comes to it. Add 'spBv1.0/#' to mqtt.topics or remove the section."
    ]


def test_a_mapping_that_nothing_reaches(tmp_path: Path) -> None:
    [unfed, shadowed] = findings(
        tmp_path,
        "mqtt.topics = ['a/+/b']\n"
        "mappings = [{topic = 'a/{device}/b'}, {topic = 'x/{device}'}, {topic = 'a/+/{device}'},"
        " {topic = 'a/{device}/b'}]",
    )
    assert "no message comes to 'x/{device}'" in unfed
    assert "'a/{device}/b' is never reached" in shadowed


def test_a_metric_in_a_mapping_stands_for_any_segment(tmp_path: Path) -> None:
    two = "mqtt.topics = ['home/+/+/state']\nmappings = [{topic = 'home/{device}/{metric}/state', format = 'text'}, "
    assert findings(tmp_path, two + "]") == []
    [shadowed] = findings(tmp_path, two + "{topic = 'home/{device}/power/state', format = 'text'}]")
    assert "'home/{device}/power/state' is never reached" in shadowed
    [dead] = findings(tmp_path, two + "{topic = '+/{device}/{metric}', format = 'text'}]")
    assert "no message comes to '+/{device}/{metric}'" in dead


def test_what_is_ignored_covers_topics_too(tmp_path: Path) -> None:
    ignored = "mappings = [{topic = 'a/#', ignore = true}, {topic = 'b/+', ignore = true}, "
    assert findings(tmp_path, f"mqtt.topics = ['a/#', 'a/b/#', 'a', 'a/+/c', 'b/+']\n{ignored}]") == []
    [rest] = findings(tmp_path, f"mqtt.topics = ['a/#', 'b/#']\n{ignored}]")
    assert "'b/#' brings some messages that no mapping matches" in rest
    [unfed] = findings(tmp_path, f"mqtt.topics = ['a/#', 'b/+']\n{ignored} {{topic = 'x/y/#', ignore = true}}]")
    assert "no message comes to 'x/y/#'" in unfed
    [shadowed] = findings(tmp_path, f"mqtt.topics = ['a/#', 'b/+']\n{ignored} {{topic = 'a/{{device}}'}}]")
    assert "'a/{device}' is never reached, 'a/#' comes first" in shadowed
    assert findings(tmp_path, "mqtt.topics = ['a/#']\nmappings = [{topic = 'a/b/#', ignore = true}]") != []


def test_a_coap_mapping_is_reached_only_with_coap(tmp_path: Path) -> None:
    mapping = "mappings = [{}, {topic = 'telemetry/{device}', units = {power = 'kW'}}]"
    assert findings(tmp_path, f"coap = {{}}\nmqtt = {{}}\n{mapping}") == []
    assert "no message comes to" in findings(tmp_path, f"mqtt = {{}}\n{mapping}")[0]


def test_what_a_coap_resource_says_needs_a_mapping(tmp_path: Path) -> None:
    def coap(topic: str) -> str:
        return f"coap = {{listen = false, resources = [{{uri = 'coap://h/t', topic = '{topic}'}}]}}"

    assert findings(tmp_path, coap("telemetry/boiler")) == []
    assert findings(tmp_path, f"{coap('plant/boiler')}\nmappings = [{{topic = 'plant/{{device}}'}}]") == []
    [finding] = findings(tmp_path, coap("plant/boiler"))
    assert "no mapping matches 'plant/boiler', so what coap://h/t says becomes dead letters" in finding


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    [mqtt, uplink] = findings(tmp_path, "mqtt.password_file = 'nope'\nuplink.tls.ca_file = 'nope.pem'")
    assert mqtt.startswith("mqtt: cannot read password_file")
    assert "nope.pem" in uplink


def test_a_spool_without_a_place(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "is not a directory" in findings(tmp_path, "coap = {}\nspool.path = 'file/spool'")[0]


def test_a_spool_without_room(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(f"gateway = 'g'\ncoap = {{}}\nspool.free_bytes_min = {2**62}\n")
    assert "Make room or lower it" in check(path)[0]


def test_what_is_collected() -> None:
    config = GatewayConfig.model_validate({"gateway": "g", "mqtt": {"topics": ["a/+", "$share/x/b/#"]}})
    assert [is_collected(config, topic) for topic in ("a/x", "b", "b/x/y", "a", "a/x/y", "telemetry/d")] == [
        *[True] * 3,
        *[False] * 3,
    ]
    assert is_collected(GatewayConfig(gateway="g", coap=Coap()), "telemetry/d")

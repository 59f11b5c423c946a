"""gateway.toml: each mistake is a sentence that names the file and the key."""

import re
import tomllib
from pathlib import Path

import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from edge_agent.config import GatewayConfig, Mapping, load
from edge_agent.formats import FORMATS
from telemetry.errors import ConfigError

SAMPLE = Path(__file__).parents[3] / "docs" / "gateway.toml"
SECRETS = {"password"}  # the sample speaks of it in prose: it excludes password_file


def complaint(tmp_path: Path, text: str) -> str:
    path = tmp_path / "gateway.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as raised:
        load(path)
    return str(raised.value)


def csv(options: str) -> str:
    return f"mappings = [{{format = 'csv', csv = {{{options}}}}}]"


def struct(field: str) -> str:
    return f"mappings = [{{format = 'struct', struct = {{fields = [{{{field}}}]}}}}]"


@pytest.mark.parametrize(
    ("lines", "sentence"),
    [
        ("uplink.batch_age_s_max = -1", "uplink.batch_age_s_max must be >= 0, got -1"),
        ("uplink.batch_age_s_max = inf", "uplink.batch_age_s_max must be a finite number, got inf"),
        ("uplink.resend_s = nan", "uplink.resend_s must be a finite number, got nan"),
        ("uplink.resend_s = 0", "uplink.resend_s must be > 0, got 0"),
        ("uplink.batch_rows_max = 1000000", "uplink.batch_rows_max must be <= 500000, got 1000000"),
        ("uplink.partition = 4", "uplink.partition is not a known key"),
        ("colour = 4", "colour is not a known key"),
        ("coap.port = 0", "coap.port must be >= 1, got 0"),
        (
            "coap.bind = 'localhost'",
            "coap.bind must be an IP address, such as 0.0.0.0 or ::, got 'localhost'",
        ),
        ("coap.resources = [{uri = 'http://a/b', topic = 'a'}]", "be a CoAP URI, such as coap://192.0.2.7/temperature"),
        ("coap.resources = [{uri = 'coap://a:70000/b', topic = 'a'}]", "coap.resources.0.uri must be a CoAP URI"),
        ("coap.resources = [{uri = 'coap://a/b', topic = 'a/+'}]", "topic must be a topic without wildcards"),
        ("coap.resources = [{uri = 'coap://a/b'}]", "coap.resources.0.topic is missing"),
        ("mqtt.topics = ['a/#/b']", "must be an MQTT topic filter, such as devices/+/telemetry, got 'a/#/b'"),
        ("mqtt.topics = ['a+']", "must be an MQTT topic filter, such as devices/+/telemetry, got 'a+'"),
        (
            "mqtt.topics = []",
            "mqtt.topics must have at least one topic; without topics leave the section out",
        ),
        ("mappings = [{topic = 'a/b'}]", "and {device} as exactly one whole segment, got 'a/b'"),
        ("mappings = [{topic = 'a/x{device}'}]", "and {device} as exactly one whole segment"),
        ("mappings = [{topic = '{device}/{device}'}]", "and {device} as exactly one whole segment"),
        ("mappings = [{topic = '{device}/#'}]", "and {device} as exactly one whole segment"),
        (
            "mappings = [{topic = '{device}/x{metric}'}]",
            "have segments of text, +, {metric} or the {name} of",
        ),
        ("mappings = [{topic = '{metric}/state'}]", "and {device} as exactly one whole segment"),
        (
            "mappings = [{topic = '{device}/{metric}'}]",
            "mappings.0: topic names the metric, and so does the payload in format 'json'. Remove {metric}, or use",
        ),
        (
            "mappings = [{csv = {header = true}}]",
            "mappings.0: the section csv is for format = 'csv', here it is 'json'",
        ),
        (
            "mappings = [{format = 'struct'}]",
            "mappings.0: format 'struct' needs a section [mappings.struct] that says what is in it",
        ),
        ("mappings = [{topic = 'a/#/b', ignore = true}]", "must be an MQTT topic filter, such as devices/+/telemetry"),
        (
            "mappings = [{topic = 'a/#', ignore = true, units = {a = 'W'}}]",
            "mappings.0: a mapping with ignore = true has a topic and nothing else",
        ),
        ("mappings = [{rename = {a = 'x', b = 'x'}}]", "mappings.0: rename must give different names, or two"),
        ("mappings = [{rename = {a = ''}}]", "mappings.0.rename.a must have at least 1 character"),
        (csv(""), "mappings.0.csv: give columns, or header = true"),
        (csv("header = true, columns = ['a']"), "mappings.0.csv: give columns, or header = true"),
        (csv("columns = ['a', '', 'a', '']"), "mappings.0.csv: columns must have different names"),
        (csv("columns = ['ts', '']"), "mappings.0.csv: columns must name one beside the time's"),
        (csv("header = true, decimal_comma = true"), "decimal_comma needs another delimiter than ','"),
        (csv("header = true, delimiter = 'x'"), "mappings.0.csv.delimiter must be ',', ';', '\\t' or '|', got 'x'"),
        (struct("name = 'a', type = 'u24'"), "mappings.0.struct.fields.0.type must be 'u8', 'u16',"),
        (struct("type = 'u8'"), "mappings.0.struct.fields.0: every field but a pad must have a name, and a pad none"),
        (struct("type = 'pad', name = 'a'"), "every field but a pad must have a name, and a pad none"),
        (struct("type = 'u8', name = 'a', bytes = 2"), "bytes is for fields of type pad"),
        (
            struct("type = 'u8', name = 'a', scale = 0"),
            "mappings.0.struct.fields.0.scale must be >= 0.000000000001, got 0",
        ),
        (
            struct("type = 'u8', name = 'a', offset = nan"),
            "mappings.0.struct.fields.0.offset must be <= 1000000000000, got nan",
        ),
        (struct("type = 'u8', name = 'a'}, {type = 'i8', name = 'a'"), "fields must have different names"),
        (struct("type = 'u32', name = 'ts'}, {type = 'pad'"), "fields must have one beside ts and pads"),
        (
            struct("type = 'u32', name = 'ts', scale = 0.1}, {type = 'u8', name = 'a'"),
            "mappings.0.struct: ts must be a plain number of time_unit",
        ),
        ("mappings = [{profile = 'acme'}]", "mappings: profile must be one of chirpstack, esphome, homie4,"),
        ("mappings = [{profile = 'ttn', format = 'text'}]", "mappings: the profile 'ttn' says the format"),
        ("mappings = [{profile = 'tasmota', topic = 'x/{device}'}]", "the profile 'tasmota' has several topics"),
        ("mappings = [{json = {time_zone = 'Mars/Base'}}]", "mappings.0.json.time_zone must be a time zone of this"),
        ("mappings = [{json = {time_zone = '../UTC'}}]", "mappings.0.json.time_zone must be a time zone of this"),
        ("mappings = [{json = {time = 'a..b'}}]", "mappings.0.json.time must be a path, such as data.0.temperature"),
        ("mappings = [{json = {ignore = ['']}}]", "mappings.0.json.ignore.0 must be a path, such as"),
        ("mappings = [{format = 'cbor', json = {}}]", "the section json is for format = 'json', here it is 'cbor'"),
        ("mappings = [{format = 'xml'}]", "mappings.0.format must be '"),
        ("spool.when_full = 'explode'", "spool.when_full must be 'block' or 'drop_oldest', got 'explode'"),
        ("collect.payload_bytes_max = 'many'", "collect.payload_bytes_max must be a valid integer"),
        ("collect.dead_letter_bytes_max = 2000000", "must be <= 1048576, got 2000000"),
        ("profile = 'fast'", "profile must be 'default' or 'low_latency', got 'fast'"),
        ("mqtt = {password = 'a', password_file = 'b'}", "give password or password_file, not both"),
        ("mqtt = {}\nspool.bytes_max = 2000000", "spool.bytes_max must be at least 17825792, four times what may"),
    ],
)
def test_a_mistake_is_a_sentence_with_file_and_key(tmp_path: Path, lines: str, sentence: str) -> None:
    said = complaint(tmp_path, f"gateway = 'g'\n{lines}\n" + ("" if "coap" in lines else "coap.port = 5683\n"))
    assert said.startswith(f"{tmp_path}/gateway.toml: ")
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_all_mistakes_are_said_at_once(tmp_path: Path) -> None:
    said = complaint(tmp_path, "coap.port = 0\nspool.bytes_max = 1\n")
    assert "gateway is missing" in said
    assert len(said.splitlines()) == 3


def test_a_config_that_collects_nothing_is_refused(tmp_path: Path) -> None:
    for text in ("", "coap.listen = false\n"):
        assert "add a section [mqtt] or [coap]" in complaint(tmp_path, f"gateway = 'g'\n{text}")


def test_a_password_is_not_repeated(tmp_path: Path) -> None:
    said = complaint(tmp_path, "gateway = 'g'\n[mqtt]\npassword = 1234567\n")
    assert "mqtt.password" in said
    assert "1234567" not in said


@pytest.mark.parametrize("content", [b"gateway = ", b"gateway = '\xff'"])
def test_a_file_that_is_no_toml(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "gateway.toml").write_bytes(content)
    with pytest.raises(ConfigError, match="is not valid TOML"):
        load(tmp_path / "gateway.toml")


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read the config: No such file"):
        load(tmp_path / "gateway.toml")


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    path = tmp_path / "gateway.toml"
    path.write_text(
        "gateway = 'g'\n[mqtt]\npassword_file = 'p'\ntls.ca_file = '/etc/ca.pem'\n[uplink.tls]\nca_file = 'ca.pem'\n"
    )
    config = load(path)
    assert config.spool.path == tmp_path / "spool"
    assert config.mqtt is not None
    assert config.mqtt.tls is not None
    assert config.uplink.tls is not None
    assert config.mqtt.password_file == tmp_path / "p"
    assert config.mqtt.tls.ca_file == Path("/etc/ca.pem")
    assert config.uplink.tls.ca_file == tmp_path / "ca.pem"


def test_a_profile_changes_the_age_of_batches_and_a_key_wins() -> None:
    def age_s(**uplink: float) -> float:
        low = {"gateway": "g", "coap": {}, "profile": "low_latency", "uplink": uplink}
        return GatewayConfig.model_validate(low).uplink.limits.batch_age_s_max

    assert age_s() == age_s(batch_rows_max=10) == 0.02
    assert age_s(batch_age_s_max=0.3) == 0.3


def test_the_sample_loads_and_takes_every_default() -> None:
    config = load(SAMPLE)
    plain = GatewayConfig.model_validate({"gateway": "gateway-1", "mqtt": {}, "coap": {}})
    assert config == plain.model_copy(
        update={"spool": plain.spool.model_copy(update={"path": SAMPLE.parent / "spool"})}
    )


def test_the_sample_shows_every_key_with_its_default() -> None:
    shown = tomllib.loads(re.sub(r"(?m)^#(?=[a-z\[])", "", SAMPLE.read_text()))
    GatewayConfig.model_validate(shown)
    compare(shown, GatewayConfig, "")


def compare(shown: dict[str, object], model: type[BaseModel], where: str) -> None:
    for name, field in model.model_fields.items():
        key = field.alias or name
        if key in (*SECRETS, "cbor", "msgpack"):  # these two are as json
            continue
        assert key in shown, f"{where}{key} is not in docs/gateway.toml"
        value = shown[key]
        if key == "devices":
            assert isinstance(value, dict)
            compare(value["pump-7"], model_types(field.annotation)[0], "devices.pump-7.")
        elif key in ("mappings", "resources", "process", "derived"):
            assert isinstance(value, list)
            merged = {name: value for table in reversed(value) for name, value in table.items()}
            compare(merged, model_types(field.annotation)[0], f"{where}{key}.")
        elif isinstance(value, dict) and (inner := model_types(field.annotation)):
            compare(value, inner[0], f"{where}{key}.")
        else:
            default = field.get_default(call_default_factory=True)
            if default is not None and default is not PydanticUndefined:
                expected = list(default) if isinstance(default, tuple) else default
                expected = str(expected) if isinstance(expected, Path) else expected
                assert value == expected, f"{where}{key}"


def model_types(annotation: object) -> list[type[BaseModel]]:
    options = getattr(annotation, "__args__", (annotation,))
    return [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]


def test_the_formats_of_the_config_are_the_formats_there_are() -> None:
    annotation = Mapping.model_fields["format"].annotation
    assert set(getattr(annotation, "__args__", ())) == set(FORMATS)

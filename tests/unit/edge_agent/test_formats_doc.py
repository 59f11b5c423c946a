"""docs/formats.md: what its examples say is what happens."""

import re
import tomllib
from pathlib import Path

import pytest

from edge_agent.config import GatewayConfig
from edge_agent.formats import FORMATS
from edge_agent.preview import Preview

PAGE = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
SECTIONS = re.split(r"^## (\S+)$", PAGE, flags=re.MULTILINE)[1:]
EXAMPLES = [
    (section, toml, example)
    for section, text in zip(SECTIONS[::2], SECTIONS[1::2], strict=True)
    for toml, example in re.findall(r"^```toml\n(.*?)^```\n+```text\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
]


def test_there_are_examples() -> None:
    assert {section for section, _, _ in EXAMPLES} == set(FORMATS)


@pytest.mark.parametrize(("section", "toml", "example"), EXAMPLES, ids=[section for section, _, _ in EXAMPLES])
def test_an_example(section: str, toml: str, example: str) -> None:
    config = GatewayConfig.model_validate({"gateway": "g", "coap": {}, **tomllib.loads(toml)})
    message, *expected = example.splitlines()
    topic, payload = message.split(" ", 1)
    digits = payload.removesuffix(" --hex")
    fate = Preview(config)(topic, payload.encode() if digits == payload else bytes.fromhex(digits), 0)
    assert fate.reason is None
    assert config.mappings[0].format == section
    assert [
        f"    {device}  {metric}  {value} {unit}".rstrip() for device, metric, value, unit, *_ in fate.readings
    ] == expected

"""docs/formats.md: what its examples say is what happens."""

import re
import tomllib
from pathlib import Path

import pytest

from edge_agent.config import GatewayConfig
from edge_agent.preview import Preview

PAGE = (Path(__file__).parents[3] / "docs" / "formats.md").read_text()
EXAMPLES = re.findall(
    r"^## (\S+)$(?:(?!^## ).)*?^```toml\n(.*?)^```\n+```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL
)


def test_there_are_examples() -> None:
    assert {"csv", "influx", "struct", "text"} <= {section for section, _, _ in EXAMPLES}


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

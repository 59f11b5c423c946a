"""Units are converted as pint has it, exactly; what cannot be converted is a sentence; the agent does not keep pint."""

import subprocess
import sys
from fractions import Fraction

import pint
import pytest
from pydantic import ValidationError

from edge_agent.config import GatewayConfig
from edge_agent.units import Conversion, conversions

PAIRS = [
    ("degF", "degC"),
    ("psi", "bar"),
    ("kWh", "J"),
    ("mile/hour", "m/s"),
    ("gallon/min", "l/s"),
    ("°F", "K"),
    ("%", "1"),
]
WRONG = {
    ("m", "s"): "they measure different things",
    ("furlog", "m"): "there is no unit 'furlog'; did you mean furlong",
    ("dBm", "mW"): "cannot be read as a unit",
    ("m*(", "m"): "cannot be read as a unit",
}


def config(**rule: object) -> GatewayConfig:
    return GatewayConfig.model_validate({"gateway": "g", "coap": {}, "process": [{"metric": "t", **rule}]})


def test_conversions_are_those_of_the_library_rounded_once() -> None:
    registry = pint.UnitRegistry(non_int_type=Fraction)
    answers = conversions([*PAIRS, *WRONG])
    for (given, wanted), answer in zip(PAIRS, answers[: len(PAIRS)], strict=True):
        assert isinstance(answer, Conversion)
        for value in (Fraction(-40), Fraction(0), Fraction("98.6"), Fraction(10**6)):
            exact = registry.Quantity(value, given).to(wanted).magnitude
            assert float(value) * answer.scale + answer.offset == pytest.approx(float(exact), rel=1e-14, abs=1e-13)
    assert answers[0] == Conversion(5 / 9, float(Fraction(-160, 9)))
    for (pair, sentence), answer in zip(WRONG.items(), answers[len(PAIRS) :], strict=True):
        assert isinstance(answer, str), pair
        assert sentence in answer


def test_a_rule_gets_its_factor_from_the_units() -> None:
    [rule] = config(unit_from="degF", unit="degC").process
    assert (rule.scale, rule.unit) == (5 / 9, "degC")


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"unit_from": "degF"}, "unit_from needs unit"),
        ({"unit_from": "degF", "unit": "degC", "scale": 2}, "neither scale nor offset"),
        ({"unit_from": "degF", "unit": "bar"}, "section 0: 'degF' cannot become 'bar'"),
    ],
)
def test_what_cannot_be_is_said_when_the_config_is_read(rule: dict[str, object], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        config(**rule)


def test_the_library_does_not_stay_in_the_agent() -> None:
    code = (
        "import sys; from edge_agent.config import GatewayConfig;"
        "GatewayConfig.model_validate({'gateway': 'g', 'coap': {},"
        " 'process': [{'metric': 't', 'unit_from': 'degF', 'unit': 'degC'}]});"
        "sys.exit('pint' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_without_the_library_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    (tmp_path / "pint.py").write_text("raise ImportError('no')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ValidationError, match=r"pip install 'fieldline\[units\]'"):
        config(unit_from="degF", unit="degC")

"""Format `text`: numbers against Python's own, everything else as it was written."""

import re

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.formats.fields import TEXT_BYTES_MAX
from edge_agent.formats.text import TextDecoder
from edge_agent.mapping import DeviceSeries
from edge_agent.readings import Readings

NOT_TEXTS = re.compile(r"(?ia)[-+.\de]+|nan|null|on|off|true|false|[-+]?inf(inity)?").fullmatch


def value_of(payload: bytes) -> float | str | None:
    """The one reading, None if there is none. Fails when it is refused."""
    readings = Readings()
    assert TextDecoder(DeviceSeries("d", {}, lambda _series: 7, "power"))(payload, 5, readings) is None
    assert readings.series == [7] * len(readings.value)
    return readings.texts.get(0, readings.value[0]) if readings.value else None


@given(st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_is_the_nearest_float64(number: float) -> None:
    assert value_of(f" {number}\n".encode()) == float(number)


@given(st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=20))
def test_what_is_no_number_and_no_word_is_kept_as_a_text(text: str) -> None:
    plain = text.strip(" ")
    if not plain or NOT_TEXTS(plain):
        return
    assert value_of(text.encode()) == plain


def test_a_text_has_a_limit_in_bytes() -> None:
    fits = "é" * (TEXT_BYTES_MAX // 2)
    assert value_of(fits.encode()) == fits
    reason = TextDecoder(DeviceSeries("d", {}, lambda _series: 7))(f"{fits}é".encode(), 5, Readings())
    assert reason == "the text has 65538 bytes, at most 65536 are allowed"

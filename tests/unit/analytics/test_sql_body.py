"""The answer's bytes: late errors are taken out wherever the network cuts them, everything else passes."""

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from urllib3.exceptions import ProtocolError

from analytics.sql import body
from ingest.clickhouse.address import address
from telemetry.errors import FieldlineError

WHERE = address("http://db")
TAG = "PU1FNUFH98sdf234"


@dataclass
class Answer:
    """An HTTP answer that arrives in these pieces, and may then break."""

    pieces: list[bytes]
    headers: dict[str, str] = field(default_factory=lambda: {"X-ClickHouse-Exception-Tag": TAG})
    breaks: bool = False

    def stream(self, _amount):
        yield from self.pieces
        if self.breaks:
            raise ProtocolError("cut")


def cut(data, places):
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[a:b] for a, b in pairwise(edges)]


places = st.lists(st.integers(0, 400), max_size=12)


@given(st.binary(max_size=200), places)
def test_whatever_is_no_error_passes_unchanged(data, places):
    assert b"".join(body(Answer(cut(data, places)), WHERE)) == data
    assert b"".join(body(Answer(cut(data, places), {}), WHERE)) == data


@given(st.binary(max_size=200), places, st.booleans())
def test_a_late_error_is_taken_out(data, places, breaks):
    message = "Code: 395. DB::Exception: boom. (X) (version 26.9.1.1)"
    late = f"\r\n__exception__\r\n{TAG}\r\n{message}\n{len(message)} {TAG}\r\n__exception__\r\n"
    answer = Answer(cut(data + late.encode(), places), breaks=breaks)
    out = []
    with pytest.raises(FieldlineError, match=r"says: boom\. \(X\)\nThe result above is not complete\."):
        out.extend(body(answer, WHERE))
    assert b"".join(out) == data


def test_a_broken_connection_is_a_sentence():
    with pytest.raises(FieldlineError, match="broke off"):
        list(body(Answer([b"1\n"], breaks=True), WHERE))

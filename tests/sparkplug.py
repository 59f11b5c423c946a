"""Sparkplug payloads for tests, written by Eclipse Tahu's classes and not by ours."""

from collections.abc import Iterable
from typing import Any

from tahutils.tahu.sparkplug_b_pb2 import Payload

from edge_agent.readings import Readings
from telemetry.columns import Series
from tests.records import NEW_YEAR_MS

INT32, INT64, DOUBLE, BOOLEAN, STRING = 3, 4, 10, 11, 12


def payload(*metrics: dict[str, Any], seq: int | None = None, at_ms: int | None = NEW_YEAR_MS) -> bytes:
    """A payload; a metric is its fields by name."""
    made = Payload(metrics=[Payload.Metric(**metric) for metric in metrics])
    if seq is not None:
        made.seq = seq
    if at_ms is not None:
        made.timestamp = at_ms
    return made.SerializeToString()


def bd_seq(number: int) -> dict[str, Any]:
    """The metric that tells sessions apart."""
    return {"name": "bdSeq", "datatype": INT64, "long_value": number}


class Ids(dict[Series, int]):
    """A spool's series."""

    def __missing__(self, series: Series) -> int:
        self[series] = len(self)
        return self[series]

    def named(self, readings: Readings) -> list[tuple[str, str, float | str, int, int]]:
        """(device, metric, value, measured_at, quality) of readings."""
        names = list(self)
        assert len({len(c) for c in (readings.series, readings.measured_at, readings.value, readings.quality)}) == 1
        return [
            (names[id_].device, names[id_].metric, readings.texts.get(at, readings.value[at]), measured_at, quality)
            for at, (id_, measured_at, quality) in enumerate(
                zip(readings.series, readings.measured_at, readings.quality, strict=True)
            )
        ]


def values(named: Iterable[tuple[str, str, float | str, int, int]]) -> list[tuple[str, str, float | str]]:
    """Without times."""
    return [reading[:3] for reading in named]

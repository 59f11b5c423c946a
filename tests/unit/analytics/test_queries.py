import pytest

from analytics import queries
from telemetry.errors import FieldlineError

TEXT = """-- Readings of a device
-- `at` (UTC), `value`.
-- parameter minutes = 60: how far to look back
SELECT measured_at AS at, value FROM fieldline.readings
WHERE device = {device:String} AND at > now() - INTERVAL {minutes:UInt32} MINUTE;
"""


def test_a_file_has_a_title_a_meaning_parameters_and_a_statement() -> None:
    query = queries.parse("example", TEXT)
    assert (query.title, query.about) == ("Readings of a device", "`at` (UTC), `value`.")
    assert [(p.name, p.type, p.default, p.about) for p in query.parameters] == [
        ("device", "String", None, ""),
        ("minutes", "UInt32", "60", "how far to look back"),
    ]
    assert query.sql.startswith("SELECT")
    assert query.sql.endswith("MINUTE")


def test_defaults_fill_up_what_is_given() -> None:
    query = queries.parse("example", TEXT)
    assert query.values({"device": "t1"}) == {"device": "t1", "minutes": "60"}
    with pytest.raises(FieldlineError, match="needs the parameter device"):
        query.values({})
    with pytest.raises(FieldlineError, match="has no parameter hours; it has device, minutes"):
        query.values({"device": "t1", "hours": 1})


def test_an_unknown_query_is_told_with_those_that_are_there() -> None:
    with pytest.raises(FieldlineError, match=r"no query nothing.*gateways"):
        queries.load("nothing")


@pytest.mark.parametrize("name", queries.names())
def test_every_file_can_be_read(name: str) -> None:
    query = queries.load(name)
    assert query.title
    assert query.about
    assert query.sql.lstrip().upper().startswith(("SELECT", "WITH"))

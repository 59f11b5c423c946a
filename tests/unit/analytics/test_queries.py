from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from analytics import dead_letters, queries
from analytics.queries import command, page
from telemetry.errors import FieldlineError

TEXT = """-- Readings of a device
-- `at` (UTC), `value`.
-- parameter device: whose
-- parameter minutes = 60: how far to look back
SELECT measured_at AS at, value FROM fieldline.readings
WHERE device = {device:String} AND at > now() - INTERVAL {minutes:UInt32} MINUTE;
"""


def test_a_file_has_a_title_a_meaning_parameters_and_a_statement() -> None:
    query = queries.parse("example", TEXT)
    assert (query.title, query.about) == ("Readings of a device", "`at` (UTC), `value`.")
    assert [(p.name, p.type, p.default, p.about) for p in query.parameters] == [
        ("device", "String", None, "whose"),
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


@pytest.mark.parametrize("name", queries.every())
def test_every_file_can_be_read(name: str) -> None:
    query = queries.load(name)
    assert query.title
    assert query.about
    assert query.sql.lstrip().upper().startswith(("SELECT", "WITH"))
    assert [p.name for p in query.parameters if not p.about] == []


NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ("now", "2026-01-31 12:00:00.000000"),
        ("-90s", "2026-01-31 11:58:30.000000"),
        ("-2h", "2026-01-31 10:00:00.000000"),
        ("-30d", "2026-01-01 12:00:00.000000"),
        ("2026-01-31", "2026-01-31 00:00:00.000000"),
        ("2026-01-31T12:00:00.123456Z", "2026-01-31 12:00:00.123456"),
        ("2026-01-31 13:00+01:00", "2026-01-31 12:00:00.000000"),
        (datetime(2026, 1, 31, 12, 0, 0, 5), "2026-01-31 12:00:00.000005"),  # noqa: DTZ001 - without a zone: UTC
        (datetime(2026, 1, 31, 12, tzinfo=timezone(timedelta(hours=2))), "2026-01-31 10:00:00.000000"),
    ],
)
def test_moments_are_read_in_utc(given: datetime | str, read: str) -> None:
    assert queries.moment(given, NOW) == read


@pytest.mark.parametrize("given", ["", "yesterday", "-3w", "-9999999d", "'; DROP TABLE readings"])
def test_what_is_no_moment_is_said(given: str) -> None:
    with pytest.raises(FieldlineError, match="is not a moment"):
        queries.moment(given, NOW)


def test_words_of_the_command_line_become_values() -> None:
    series = queries.load("series")
    words = ["--devices", "a", "--devices=b=c", "--metrics", "-1", "--begin=-1h"]
    assert command.given(series, words) == {"devices": ["a", "b=c"], "metrics": ["-1"], "begin": "-1h"}
    assert command.given(queries.load("devices"), ["--search="]) == {"search": ""}
    for wrong, said in [
        (["a"], "is no parameter"),
        (["--begin"], "has no value"),
        (["--begin", "now", "--begin", "now"], "is given twice"),
    ]:
        with pytest.raises(FieldlineError, match=said):
            command.given(series, wrong)


def test_the_help_names_every_parameter() -> None:
    said = command.described(queries.load("series"))
    for parameter in queries.load("series").parameters:
        assert f"--{parameter.name} ({parameter.type}" in said


def test_dead_letters_have_one_notion_of_a_kind() -> None:
    assert f"GROUP BY {dead_letters.KIND.replace('reason', 'd.reason')}" in queries.load("dead_letter_reasons").sql


def test_the_page_of_queries_is_up_to_date() -> None:
    said = (Path(__file__).parents[3] / "docs" / "queries.md").read_text(encoding="utf-8")
    assert said.endswith(page.text()), "run: python -m analytics.queries.page docs/queries.md"

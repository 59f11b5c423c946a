"""The bench of the dashboard's queries, with 100,000 readings."""

from datetime import UTC, datetime

from analytics.queries import every
from bench import dashboard
from bench.figure import Figure, Table
from bench.questions import questions

STREAMED = {"web_download"}
"""Not waited for: their rows go to a file as they come."""


def test_the_dashboard_bench_asks_what_the_pages_ask(tmp_path):
    readings = 100_000
    with dashboard.engine(tmp_path / "data") as client:
        assert not dashboard.fill(client, readings, seconds_max=-1)
        assert dashboard.fill(client, readings)
        assert dashboard.fill(client, readings)  # a second time there is nothing to make
        table, slowest, *sizes = dashboard.measure(client, readings, rounds=1)
    assert isinstance(table, Table)
    empty = {query for _, query, _, rows, *_ in table.rows if not rows}
    # no device says where it is, no alert fires, no rule is kept, and nothing is three weeks old
    no_alerts = {"web_alerts", "web_alert_rules", "web_alert_mutes", "web_alert_history"}
    assert empty <= {"web_places", "rule: anomaly", *no_alerts}
    assert isinstance(slowest, Figure)
    assert slowest.value > 0
    assert "bytes on disk per reading: readings" in {size.what for size in sizes}


def test_no_query_is_left_out():
    asked = {question.query for question in questions(datetime.now(UTC), [str(number) for number in range(10)])}
    assert set(every()) - asked == STREAMED

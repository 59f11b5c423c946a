"""The bench of the dashboard's queries, with 100,000 readings."""

from bench import dashboard
from bench.figure import Figure, Table


def test_the_dashboard_bench_asks_what_the_pages_ask(tmp_path):
    readings = 100_000
    with dashboard.engine(tmp_path / "data") as client:
        assert not dashboard.fill(client, readings, seconds_max=-1)
        assert dashboard.fill(client, readings)
        assert dashboard.fill(client, readings)  # a second time there is nothing to make
        table, slowest, *sizes = dashboard.measure(client, readings, rounds=1)
    assert isinstance(table, Table)
    assert all(rows > 0 for _, _, _, rows, *_ in table.rows)
    assert isinstance(slowest, Figure)
    assert slowest.value > 0
    assert [size.what for size in sizes][:1] == ["bytes on disk per reading: readings"]

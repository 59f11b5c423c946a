"""Alerts against the real engine: every kind of rule, every channel with a real receiver, and a kill."""

import datetime as dt
import json
import subprocess
from contextlib import contextmanager

import pytest

from analytics.alerts.conditions import Subject, condition
from analytics.alerts.rules import Anomaly, DeadLetters, Rate, Silence, Threshold
from analytics.alerts.state import Change
from analytics.alerts.store import PENDING_S_MAX, Store
from analytics.migrate import migrate
from ingest.clickhouse.client import connect
from tests.brokers import mosquitto, wait_until
from tests.clickhouse import clickhouse
from tests.commands import ROOT, command, fieldline, plain_environment
from tests.receivers import mail, subscriber, web

NOW = dt.datetime(2026, 11, 25, 8, 30, tzinfo=dt.UTC)
NOW_MS = int(NOW.timestamp() * 1000)
TABLES = ("readings", "dead_letters", "gateways", "alert_events", "alert_notifications", "alert_rules")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with clickhouse(tmp_path_factory.mktemp("alerts") / "ch") as running:
        client = connect(running.url, database="default")
        migrate(client)
        client.close()
        yield running


@pytest.fixture
def client(server):
    connection = connect(server.url)
    for table in TABLES:
        connection.command(f"TRUNCATE TABLE fieldline.{table}")
    yield connection
    connection.close()


def put(client, device, metric, *values, unit="degC", quality=0):
    """Readings, as (seconds before NOW, value); or of now, when NOW is not meant."""
    rows = [
        [device, metric, NOW - dt.timedelta(seconds=age), value, unit, quality, seq]
        for seq, (age, value) in enumerate(values)
    ]
    names = ["device", "metric", "measured_at", "value", "unit", "quality", "seq"]
    client.insert("fieldline.readings", rows, names, settings={"async_insert": 0})


def ask(client, rule, now_ms=NOW_MS):
    """device, metric or gateway -> fires, ends"""
    return {
        "/".join(part for part in found.subject if part): (found.fires, found.ends)
        for found in condition(rule, now_ms).ask(client)
    }


def threshold(**more):
    return Threshold(**({"kind": "threshold", "name": "r", "metric": "temperature"} | more))


def test_a_threshold_is_met_when_every_reading_of_the_time_is_beyond_it(client):
    put(client, "long", "temperature", (400, 80), (310, 91), (100, 92), (5, 93))
    put(client, "short", "temperature", (400, 95), (290, 80), (200, 91), (5, 93))
    put(client, "dip", "temperature", (400, 95), (100, 90), (5, 93))
    put(client, "cool", "temperature", (400, 95), (5, 85))
    put(client, "between", "temperature", (400, 95), (5, 87))
    put(client, "old", "temperature", (3 * 3600 + 400, 95), (3 * 3600, 95))
    put(client, "bad", "temperature", (400, 95), (5, 95), quality=2)
    put(client, "text", "temperature", (400, float("nan")))
    put(client, "long", "pressure", (400, 95), (5, 95))
    assert ask(client, threshold(above=90, clear=85, for_s=300)) == {
        "long/temperature": (True, False),
        "short/temperature": (False, False),
        "dip/temperature": (False, False),
        "cool/temperature": (False, True),
        "between/temperature": (False, False),
    }
    assert ask(client, threshold(above=90, device="s*"))["short/temperature"] == (True, False)
    assert ask(client, threshold(below=86, device="co?l")) == {"cool/temperature": (True, False)}
    assert ask(client, threshold(below=80, device="co?l")) == {"cool/temperature": (False, True)}


def test_names_with_quotes_are_names(client):
    put(client, "d' OR 1 --", "it's", (5, 95))
    rule = threshold(device="d' OR 1 --", metric="it's", above=90)
    assert ask(client, rule) == {"d' OR 1 --/it's": (True, False)}


def test_a_rate_is_the_change_per_time(client):
    put(client, "rising", "level", (590, 1.0), (300, 1.5), (10, 2.0))
    put(client, "flat", "level", (590, 1.0), (10, 1.05))
    put(client, "falling", "level", (590, 2.0), (10, 1.0))
    put(client, "brief", "level", (12, 1.0), (10, 9.0))
    rule = Rate(kind="rate", name="r", metric="level", above=3, over_s=600, per_s=3600)
    assert ask(client, rule) == {
        "rising/level": (True, False),
        "flat/level": (False, True),
        "falling/level": (False, True),
    }
    falling = Rate(kind="rate", name="r", metric="level", below=-3, over_s=600, per_s=3600)
    assert [name for name, (fires, _) in ask(client, falling).items() if fires] == ["falling/level"]


def test_silence_is_noticed_and_forgotten(client):
    put(client, "talks", "a", (30, 1))
    put(client, "silent", "a", (1000, 1))
    put(client, "silent", "b", (900, 1))
    put(client, "forgotten", "a", (90_000, 1))
    rule = Silence(kind="silence", name="r", after_s=600, forget_s=86_400)
    assert ask(client, rule) == {"talks": (False, True), "silent": (True, False), "forgotten": (False, True)}
    client.insert(
        "fieldline.gateways",
        [["g1", NOW - dt.timedelta(seconds=700)], ["g2", NOW - dt.timedelta(seconds=5)], ["other", NOW]],
        ["gateway", "reported_at"],
        settings={"async_insert": 0},
    )
    gateways = Silence(kind="silence", name="r", of="gateway", match="g*", after_s=600)
    assert ask(client, gateways) == {"g1": (True, False), "g2": (False, True)}


def test_an_anomaly_is_an_hour_unlike_that_of_former_weeks(client):
    week_s, hour_s = 7 * 86_400, 5400  # NOW is half past: the last full hour lies 30 to 90 minutes back
    usual = [(hour_s - 60 + week * week_s, 20 + week % 2) for week in range(1, 6)]
    put(client, "odd", "kW", *usual, (hour_s - 60, 60), unit="kW")
    put(client, "even", "kW", *usual, (hour_s - 60, 21), unit="kW")
    put(client, "new", "kW", usual[0], (hour_s - 60, 60), unit="kW")
    put(client, "steady", "kW", *[(age, 20) for age, _ in usual], (hour_s - 60, 20.5), unit="kW")
    rule = Anomaly(kind="anomaly", name="r", metric="kW", difference_min=2)
    assert ask(client, rule) == {"odd/kW": (True, False), "even/kW": (False, True), "steady/kW": (False, True)}
    assert ask(client, Anomaly(kind="anomaly", name="r", metric="kW"))["steady/kW"] == (True, False)


def test_dead_letters_are_counted_by_gateway(client):
    rows = [["g1", "e", seq, NOW - dt.timedelta(seconds=60)] for seq in range(3)] + [
        ["g2", "e", 1, NOW - dt.timedelta(seconds=60)],
        ["g3", "e", 1, NOW - dt.timedelta(seconds=9000)],
    ]
    client.insert(
        "fieldline.dead_letters", rows, ["gateway", "epoch", "seq", "ingested_at"], settings={"async_insert": 0}
    )
    rule = DeadLetters(kind="dead_letters", name="r", above=1)
    assert ask(client, rule) == {"g1": (True, False), "g2": (False, True)}


def test_what_is_muted_is_stored_and_told_to_nobody_and_acknowledging_is_seen(client):
    store = Store(client)
    hot = Subject("t1", "temperature")

    def fire(kind="firing", subject=hot, at_ms=NOW_MS):
        store.add("hot", "critical", ["ops"], [Change(kind, subject, 93.0, "hot!")], at_ms)

    fire()
    [alert] = store.alerts()
    assert (alert.rule, alert.subject, alert.severity, alert.acknowledged_by) == ("hot", hot, "critical", "")
    assert [event.id for event in store.pending("ops", NOW_MS)] == [alert.event]
    assert store.pending("others", NOW_MS) == []
    store.say("acknowledged", "hot", Subject(), "me", NOW_MS + 1)
    assert store.alerts()[0].acknowledged_by == "me"
    store.told("ops", store.pending("ops", NOW_MS), NOW_MS)
    assert store.pending("ops", NOW_MS) == []
    store.say("muted", "hot", hot, "me", NOW_MS + 2, NOW_MS + 60_000)
    fire("resolved", at_ms=NOW_MS + 3)
    fire(at_ms=NOW_MS + 4)
    fire(subject=Subject("t2", "temperature"), at_ms=NOW_MS + 5)
    assert [event.subject.device for event in store.pending("ops", NOW_MS + 6)] == ["t2"]
    assert {alert.subject.device: alert.acknowledged_by for alert in store.alerts()} == {"t1": "", "t2": ""}
    assert store.pending("ops", NOW_MS + 3 * PENDING_S_MAX * 1000) == []


def send(client, device, value):
    """A reading of this moment."""
    now = dt.datetime.now(dt.UTC)
    client.insert(
        "fieldline.readings",
        [[device, "temperature", now, value, "degC", int(now.timestamp() * 1000)]],
        ["device", "metric", "measured_at", "value", "unit", "seq"],
        settings={"async_insert": 0},
    )


@contextmanager
def running(config, log):
    with log.open("ab") as file:
        process = subprocess.Popen(
            command("alerts", "run", "--config", config), cwd=ROOT, env=plain_environment(), stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            assert process.wait(20) == 0, log.read_text()


def test_every_channel_is_told_once_over_restarts_and_failures(server, client, tmp_path):
    (tmp_path / "password").write_text("pass word\n")
    (tmp_path / "token").write_text("t0ken\n")
    log = tmp_path / "log"
    with web() as hook, mail(tmp_path, "fieldline", "pass word") as post, mosquitto(tmp_path) as broker:
        config = tmp_path / "alerts.toml"
        config.write_text(f"""
clickhouse_url = "{server.url}"
every_s = 0.2

[channels.hook]
kind = "webhook"
url = "{hook.url}?key=hidden"
token_file = "token"

[channels.plant]
kind = "mqtt"
port = {broker.port}
topic = "alerts/{{rule}}/{{device}}"

[channels.mail]
kind = "email"
host = "127.0.0.1"
port = {post.port}
ca_file = "{post.ca_file.name}"
username = "fieldline"
password_file = "password"
sender = "fieldline@plant.example"
recipients = ["ops@plant.example", "boss@plant.example"]

[[rules]]
name = "turbine too hot"
kind = "threshold"
metric = "temperature"
above = 90
clear = 85
severity = "critical"
note = "Call 1234."
notify = ["log", "hook", "plant", "mail"]
""")
        with subscriber(broker.port, "alerts/#") as heard:
            for channel in ("hook", "plant", "mail", "log"):
                done = fieldline("alerts", "test", channel, "--config", config)
                assert (done.status, done.out) == (0, f"The channel {channel} has taken a test notification.\n"), (
                    done.err
                )
            assert hook.authorizations == ["Bearer t0ken"]
            hook.bodies.clear()
            hook.status = 503
            with running(config, log) as process:
                send(client, "t/1", 93.5)
                wait_until(lambda: len(heard.topics) == 2, "MQTT is told")
                wait_until(lambda: len(post.messages) == 2, "mail is sent")
                wait_until(
                    lambda: "FIRING [critical] turbine too hot: temperature t/1 is 93.5" in log.read_text(), "log"
                )
                wait_until(lambda: "answered with status 503" in log.read_text(), "the failure is said")
                assert "hidden" not in log.read_text()
                told = "SELECT count() FROM fieldline.alert_notifications"
                wait_until(lambda: client.query(told).result_rows == [(3,)], "three channels are noted")
                process.kill()
                process.wait()
            topic, document = heard.topics[1], heard.documents[1]
            assert topic == "alerts/turbine too hot/t_1"
            assert (document["kind"], document["value"], document["severity"]) == ("firing", 93.5, "critical")
            message = post.messages[1]
            assert message["Subject"] == "[critical] turbine too hot: temperature t/1 firing"
            assert message["To"] == "ops@plant.example, boss@plant.example"
            assert "temperature t/1 is 93.5 degC, above 90" in message.get_content()
            assert "Call 1234." in message.get_content()

            hook.status = 200
            with running(config, log):
                wait_until(lambda: hook.events, "the webhook is told after all, by the next process")
                send(client, "t/1", 84.0)
                wait_until(lambda: len(hook.events) == 2, "and of the end")
                wait_until(lambda: len(heard.topics) == 3 and len(post.messages) == 3, "all are told of the end")
            assert [event["kind"] for event in hook.events] == ["firing", "resolved"]
            assert hook.events[0]["id"] == document["id"]
            assert hook.events[1]["text"] == "temperature t/1 is 84 degC; it is no longer above 90."
            assert len(heard.topics) == 3
            listed = fieldline("alerts", "list", "--url", server.url, "--all", "--format", "json")
            assert [(alert["state"], alert["device"]) for alert in json.loads(listed.out)] == [("resolved", "t/1")]


def test_what_still_fires_is_told_again_until_somebody_acknowledges(server, client, tmp_path):
    with web() as hook:
        config = tmp_path / "alerts.toml"
        config.write_text(f"""
clickhouse_url = "{server.url}"
every_s = 0.1
[channels.hook]
kind = "webhook"
url = "{hook.url}"
[[rules]]
name = "hot"
kind = "threshold"
metric = "temperature"
above = 90
repeat_s = 1
notify = ["hook"]
""")
        send(client, "t1", 95.0)
        checked = fieldline("alerts", "check", "--config", config)
        assert "hot (threshold): sees 1, would fire for 1" in checked.out
        assert "temperature t1 is 95 degC, above 90" in checked.out
        with running(config, tmp_path / "log"):
            wait_until(lambda: len(hook.events) >= 2, "it is told again")
            done = fieldline("alerts", "acknowledge", "hot", "--url", server.url)
            assert done.out == "Acknowledged: 1 of 'hot'.\n"
            said = "SELECT count() FROM fieldline.alerts WHERE acknowledged_by != ''"
            assert client.query(said).result_rows == [(1,)]
            Store(client).set_rule("other", threshold(name="other", above=94, notify=("hook",)), "me", NOW_MS)
            wait_until(lambda: hook.bodies[-1]["rule"] == "other", "a rule of the table is asked, too")
            count = len(hook.events)
            send(client, "t2", 96.0)
            wait_until(lambda: len(hook.events) >= count + 2, "another device fires in both rules")
        assert {event["id"] for event in hook.events[:2]} == {hook.events[0]["id"]}
        assert [event["again"] for event in hook.events[:2]] == [False, True]
    assert "acknowledged by" in fieldline("alerts", "list", "--url", server.url).out
    assert fieldline("alerts", "acknowledge", "cold", "--url", server.url).status == 1
    muted = fieldline("alerts", "mute", "hot", "--device", "t1", "--for-s", "60", "--url", server.url)
    assert "'hot' for t1 is muted until" in muted.out


def test_a_server_that_is_away_is_said_and_waited_for(tmp_path):
    config = tmp_path / "alerts.toml"
    config.write_text('clickhouse_url = "http://127.0.0.1:1"\nevery_s = 0.1\n')
    with running(config, tmp_path / "log"):
        wait_until(lambda: "No ClickHouse listens" in (tmp_path / "log").read_text(), "it is said")
    assert (tmp_path / "log").read_text().count("No ClickHouse listens") == 1

"""`fieldline alerts check`, `list`, `acknowledge`, `mute` and `test`."""

import asyncio
import getpass
import json
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal, TextIO

from rich.console import Console
from rich.table import Table

from analytics.alerts.channels import Notification
from analytics.alerts.conditions import Subject, condition
from analytics.alerts.rules import AlertsConfig
from analytics.alerts.run import tellers_of
from analytics.alerts.state import over, sentence
from analytics.alerts.store import Alert, Event, Store
from analytics.dead_letters import tables
from telemetry.clock import SystemClock
from telemetry.errors import FieldlineError


def check(config: AlertsConfig, *, out: TextIO | None = None) -> int:
    """Ask every rule once, and show what it sees; stores nothing and tells nobody."""
    tellers_of(config)
    console = Console(file=out or sys.stdout, highlight=False, soft_wrap=True)
    now_ms = SystemClock().now_ms()
    with tables(config.clickhouse_url) as client:
        for rule in config.rules:
            found = condition(rule, now_ms).ask(client)
            firing = [each for each in found if each.fires]
            console.print(f"{rule.name} ({rule.kind}): sees {len(found):,}, would fire for {len(firing):,}")
            for each in sorted(firing, key=lambda each: each.subject)[:10]:
                console.print(f"  {sentence(rule, each)}")
            if found and not firing:
                console.print(f"  e.g. {over(rule, found[0])}")
            if not found:
                console.print("  There is nothing it could look at now: check device and metric, or wait for readings.")
    if not config.rules:
        console.print("There are no rules in the file.")
    return 0


def list_(
    url: str | None, fmt: Literal["table", "json"] = "table", *, every: bool = False, out: TextIO | None = None
) -> int:
    """What fires, or every alert there was."""
    out = out or sys.stdout
    with tables(url) as client:
        alerts = Store(client).alerts(firing=not every)
    if fmt == "json":
        print(json.dumps([_document(alert) for alert in alerts], indent=2, ensure_ascii=False), file=out)
        return 0
    console = Console(file=out, highlight=False, width=None if out.isatty() else 200)
    if not alerts:
        console.print("Nothing fires." if not every else "No rule has ever fired.")
        return 0
    table = Table()
    for heading in ("since (UTC)", "severity", "rule", "about", "state", "what"):
        table.add_column(heading, overflow="fold")
    now = datetime.now(UTC)
    for alert in alerts:
        state = alert.state
        state += f", acknowledged by {alert.acknowledged_by}" if alert.acknowledged_by else ""
        state += f", muted until {alert.muted_until:%Y-%m-%d %H:%M}" if alert.muted_until > now else ""
        since = f"{alert.since:%Y-%m-%d %H:%M:%S}"
        table.add_row(since, alert.severity, alert.rule, str(alert.subject), state, alert.text)
    console.print(table)
    return 0


def acknowledge(url: str | None, rule: str, subject: Subject, *, out: TextIO | None = None) -> int:
    """Somebody looks after it: it is not told again until it fires anew."""
    with tables(url) as client:
        store = Store(client)
        meant = [alert for alert in store.alerts() if alert.rule == rule and subject in {Subject(), alert.subject}]
        if not meant:
            raise FieldlineError(
                f"{rule!r} does not fire{f' for {subject}' if any(subject) else ''}; see `fieldline alerts list`"
            )
        store.say("acknowledged", rule, subject, getpass.getuser(), SystemClock().now_ms())
    print(f"Acknowledged: {len(meant):,} of {rule!r}.", file=out or sys.stdout)
    return 0


def mute(url: str | None, rule: str, subject: Subject, for_s: int, *, out: TextIO | None = None) -> int:
    """Nobody is told for so long (seconds); 0 ends it."""
    now_ms = SystemClock().now_ms()
    with tables(url) as client:
        Store(client).say("muted", rule, subject, getpass.getuser(), now_ms, now_ms + for_s * 1000)
    until = datetime.fromtimestamp(now_ms / 1000 + for_s, UTC)
    said = f"is muted until {until:%Y-%m-%d %H:%M} UTC" if for_s else "is not muted any more"
    print(f"{rule!r}{f' for {subject}' if any(subject) else ''} {said}.", file=out or sys.stdout)
    return 0


def send_test(config: AlertsConfig, channel: str, *, out: TextIO | None = None) -> int:
    """Send a notification that says it is a test."""
    tellers = tellers_of(config)
    if channel not in tellers:
        raise FieldlineError(f"there is no channel {channel!r}; there are {', '.join(sorted(tellers))}")
    event = Event(0, datetime.now(UTC), "test", Subject("device", "metric"), "firing", "info", 0.0, "This is a test.")
    asyncio.run(tellers[channel].tell(Notification("test", "info", "Sent by `fieldline alerts test`.", [event])))
    print(f"The channel {channel} has taken a test notification.", file=out or sys.stdout)
    return 0


def _document(alert: Alert) -> dict[str, object]:
    document = asdict(alert) | alert.subject._asdict()
    del document["subject"]
    return {key: value.isoformat() if isinstance(value, datetime) else value for key, value in document.items()} | {
        "event": str(alert.event)
    }

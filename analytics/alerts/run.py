"""`fieldline alerts run`: ask the rules every `every_s`, store what has changed, and tell the channels.

One task asks, and one task per channel tells, so that a channel that hangs holds up nothing but itself. What a
channel does not take is offered again, with growing pauses, for a day. All of ClickHouse is behind one thread.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import groupby
from typing import TypeVar

from analytics.alerts.channels import Notification, Teller, teller
from analytics.alerts.conditions import Subject, condition
from analytics.alerts.rules import AlertsConfig, AnyRule, Log
from analytics.alerts.state import Change, changes
from analytics.alerts.store import PENDING_S_MAX, Alert, Event, Store
from ingest.clickhouse.client import ClickHouseError, Client, address, connect, explain
from telemetry.backoff import Backoff
from telemetry.clock import Clock, SystemClock
from telemetry.errors import ConfigError, FieldlineError

log = logging.getLogger(__name__)
T = TypeVar("T")
GONE = "The rule is no longer there."


def run(config: AlertsConfig) -> int:
    """Work until SIGTERM or SIGINT. Raises FieldlineError for what cannot work."""
    return asyncio.run(_main(config))


async def _main(config: AlertsConfig) -> int:
    tellers = tellers_of(config)
    main = asyncio.current_task()
    assert main is not None
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, main.cancel)
    with ThreadPoolExecutor(1, "alerts") as thread:
        engine = Engine(config, tellers, thread, SystemClock())
        with contextlib.suppress(asyncio.CancelledError):
            await engine.run()
        await asyncio.get_running_loop().run_in_executor(thread, engine.close)
    log.info("Alerts have stopped.")
    return 0


def tellers_of(config: AlertsConfig) -> dict[str, Teller]:
    """All channels, with `log`, which is always there. Raises ConfigError."""
    channels = {"log": Log(kind="log"), **config.channels}
    found = {}
    for name, channel in channels.items():
        try:
            found[name] = teller(name, channel)
        except ConfigError as error:
            raise ConfigError(f"channels.{name}: {error}") from error
    return found


@dataclass(slots=True)
class Engine:
    """The loop. `thread` is the only one that touches the client."""

    config: AlertsConfig
    tellers: Mapping[str, Teller]
    thread: ThreadPoolExecutor
    clock: Clock
    _client: Client | None = None
    _said: dict[str, str] = field(default_factory=dict)  # the last trouble of each thing, said once
    _rules: dict[str, AnyRule] = field(default_factory=dict)
    _again: dict[str, list[Event]] = field(default_factory=dict)
    _news: asyncio.Condition = field(default_factory=asyncio.Condition)

    async def run(self) -> None:
        """For ever."""
        log.info(
            "%d rules, %d channels, asked every %g s.", len(self.config.rules), len(self.tellers), self.config.every_s
        )
        async with asyncio.TaskGroup() as group:
            for name in self.tellers:
                group.create_task(self._tell_for_ever(name), name=f"channel {name}")
            while True:
                begun_s = self.clock.monotonic_s()
                if await self._look():
                    async with self._news:
                        self._news.notify_all()
                await asyncio.sleep(max(0.0, self.config.every_s - (self.clock.monotonic_s() - begun_s)))

    async def _look(self) -> bool:
        """One round over all rules, if ClickHouse answers. A rule that fails is said, and the others go on."""
        try:
            await self._in_thread(self._round)
        except (FieldlineError, ClickHouseError) as error:
            self._say("ClickHouse", f"{self._sentence(error)} Trying again.")
            return False
        self._say("ClickHouse", "")
        return True

    def _round(self) -> None:
        store = self._store()
        self._rules = self._all_rules(store)
        firing: dict[str, dict[Subject, Alert]] = {}
        for alert in store.alerts():
            firing.setdefault(alert.rule, {})[alert.subject] = alert
        for name in firing.keys() - self._rules.keys():
            gone = [Change("resolved", subject, 0.0, GONE) for subject in firing[name]]
            store.add(
                name, "info", [channel for channel in ("log",) if channel in self.tellers], gone, self.clock.now_ms()
            )
        for name, rule in self._rules.items():
            self._ask(store, rule, firing.get(name, {}))
        self._again = self._due_again(store, [alert for alerts in firing.values() for alert in alerts.values()])

    def _ask(self, store: Store, rule: AnyRule, firing: Mapping[Subject, Alert]) -> None:
        now_ms = self.clock.now_ms()
        asked = condition(rule, now_ms)
        try:
            found = asked.ask(self._connected())
        except ClickHouseError as error:
            if getattr(error, "code", None) is None:
                raise  # the connection, not the rule
            self._say(rule.name, f"The rule {rule.name!r} cannot be asked: {self._sentence(error)}")
            return
        self._say(rule.name, "")
        new = changes(rule, firing, found, absent_ends=asked.absent_ends)
        store.add(rule.name, rule.severity, rule.notify, new, now_ms)

    def _all_rules(self, store: Store) -> dict[str, AnyRule]:
        """The file's, and those of the table that have other names."""
        kept, troubles = store.rules()
        own = {rule.name: rule for rule in self.config.rules}
        others = {name: rule for name, rule in kept.items() if name not in own}
        troubles += [
            f"The rule {name!r} notifies {channel!r}, which is no channel of this config."
            for name, rule in others.items()
            for channel in rule.notify
            if channel not in self.tellers
        ]
        self._say("alert_rules", " ".join(troubles))
        return own | others

    def _due_again(self, store: Store, firing: Sequence[Alert]) -> dict[str, list[Event]]:
        """By channel: what still fires, is neither acknowledged nor muted, and was last told repeat_s ago."""
        now = datetime.fromtimestamp(self.clock.now_ms() / 1000, UTC)
        waiting = [
            alert
            for alert in firing
            if (rule := self._rules.get(alert.rule))
            and rule.repeat_s
            and not alert.acknowledged_by
            and alert.muted_until < now
        ]
        told = store.last_told([alert.event for alert in waiting])
        due: dict[str, list[Event]] = {}
        for alert in waiting:
            pause = timedelta(seconds=self._rules[alert.rule].repeat_s)
            for channel in alert.notify:
                last = told.get((alert.event, channel))
                if last is not None and now - last >= pause:
                    event = Event(
                        alert.event,
                        alert.since,
                        alert.rule,
                        alert.subject,
                        "firing",
                        alert.severity,
                        alert.value,
                        alert.text,
                        True,
                    )
                    due.setdefault(channel, []).append(event)
        return due

    async def _tell_for_ever(self, channel: str) -> None:
        pause = Backoff(1.0, 300.0)
        while True:
            async with self._news:
                await self._news.wait()
            try:
                await self._tell(channel)
            except FieldlineError as error:
                delay_s = pause.next_s()
                self._say(channel, f"{error} Trying again.")
                await asyncio.sleep(delay_s)
            except ClickHouseError as error:
                self._say("ClickHouse", f"{self._sentence(error)} Trying again.")
            else:
                pause.reset()
                self._say(channel, "")

    async def _tell(self, channel: str) -> None:
        """All that the channel has not been told, a rule at a time."""
        now_ms = self.clock.now_ms()
        events = await self._in_thread(lambda: self._store().pending(channel, now_ms))
        limit = datetime.fromtimestamp(now_ms / 1000 - PENDING_S_MAX, UTC)
        late = [event for event in events if event.at < limit]
        if late:
            log.error("The channel %s has not taken %d notifications for a day; they are given up.", channel, len(late))
            await self._in_thread(lambda: self._store().told(channel, late, now_ms, "not taken within a day"))
        fresh = [event for event in events if event.at >= limit] + self._again.pop(channel, [])
        for name, group in groupby(sorted(fresh, key=lambda event: event.rule), key=lambda event: event.rule):
            told = sorted(group, key=lambda event: event.id)
            rule = self._rules.get(name)
            severity = rule.severity if rule else told[0].severity
            await self.tellers[channel].tell(Notification(name, severity, rule.note if rule else "", told))
            await self._in_thread(partial(self._note, channel, told))

    def _note(self, channel: str, told: Sequence[Event]) -> None:
        self._store().told(channel, told, self.clock.now_ms())

    async def _in_thread(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self.thread, call)

    def _store(self) -> Store:
        return Store(self._connected())

    def _connected(self) -> Client:
        if self._client is None:
            self._client = connect(self.config.clickhouse_url)
        return self._client

    def close(self) -> None:
        """Let go of ClickHouse."""
        if self._client is not None:
            self._client.close()

    def _sentence(self, error: Exception) -> str:
        if isinstance(error, FieldlineError):
            return str(error)
        return str(explain(error, address(self.config.clickhouse_url)))

    def _say(self, what: str, trouble: str) -> None:
        if trouble and trouble != self._said.get(what):
            log.warning("%s", trouble)
        elif not trouble and self._said.get(what):
            log.info("%s: works again.", what)
        self._said[what] = trouble

"""How people and machines are told. A channel takes the events of one rule, or raises FieldlineError.

A notification is JSON for machines (webhook; MQTT, one message per event):

    {"rule": "too hot", "severity": "critical", "note": "…", "events": [
        {"id": "1848…", "kind": "firing", "at": "2026-11-25T08:00:00.000Z", "device": "R80711", "metric": "Gb1t_avg",
         "gateway": "", "value": 93.2, "text": "…", "again": false}]}

An id that comes twice is the same event: a kill between telling and noting that it was told repeats it.
"""

import asyncio
import json
import logging
import secrets
import smtplib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from email.message import EmailMessage
from email.utils import format_datetime, make_msgid
from typing import Any, Protocol

import urllib3

from analytics.alerts.rules import AnyChannel, Email, Log, Mqtt, Webhook, secret
from analytics.alerts.store import Event
from broker_bridge.mqtt.client import Connection
from telemetry.errors import ConfigError, FieldlineError

log = logging.getLogger(__name__)
LISTED_MAX = 50
"""Events that a mail or a line of the log lists; of more it says how many they are."""


@dataclass(frozen=True, slots=True)
class Notification:
    """Events of one rule that are told together, at least one."""

    rule: str
    severity: str
    note: str
    events: Sequence[Event]

    @property
    def headline(self) -> str:
        """One line."""
        first, count = self.events[0], len(self.events)
        what = "still firing" if first.again else first.kind
        more = f" and {count - 1:,} more" if count > 1 else ""
        return f"[{self.severity}] {self.rule}: {first.subject} {what}{more}"

    @property
    def text(self) -> str:
        """For people."""
        lines = [f"{event.kind}{' (still)' if event.again else ''}: {event.text}" for event in self.events[:LISTED_MAX]]
        if len(self.events) > LISTED_MAX:
            lines.append(f"… and {len(self.events) - LISTED_MAX:,} more; `fieldline alerts list` shows all.")
        return "\n".join([*lines, *(["", self.note] if self.note else [])])

    def documents(self) -> list[dict[str, Any]]:
        """The events for machines."""
        return [
            {
                "id": str(event.id),  # more than JavaScript's numbers hold
                "kind": event.kind,
                "at": f"{event.at:%Y-%m-%dT%H:%M:%S}.{event.at.microsecond // 1000:03d}Z",
                **event.subject._asdict(),
                "value": event.value,
                "text": event.text,
                "again": event.again,
            }
            for event in self.events
        ]

    def common(self) -> dict[str, Any]:
        """What all events share."""
        return {"rule": self.rule, "severity": self.severity, "note": self.note}


class Teller(Protocol):
    """A channel at work."""

    async def tell(self, notification: Notification) -> None:
        """Returns when the other side has taken it. Raises FieldlineError."""


def teller(name: str, channel: AnyChannel) -> Teller:
    """The channel by its config. Raises ConfigError for a secret or certificate that cannot be read."""
    if isinstance(channel, Webhook):
        return WebhookTeller(channel, secret(channel.token_file) if channel.token_file else None)
    if isinstance(channel, Mqtt):
        return MqttTeller(name, channel)
    if isinstance(channel, Email):
        return EmailTeller(channel, secret(channel.password_file) if channel.password_file else None)
    assert isinstance(channel, Log)
    return LogTeller()


class LogTeller:
    """Lines in the log of the program."""

    async def tell(self, notification: Notification) -> None:
        """One line per event; it cannot fail."""
        for event in notification.events[:LISTED_MAX]:
            kind = "STILL FIRING" if event.again else event.kind.upper()
            level = logging.WARNING if event.kind == "firing" else logging.INFO
            log.log(level, "%s [%s] %s: %s", kind, notification.severity, notification.rule, event.text)
        if len(notification.events) > LISTED_MAX:
            log.warning("… and %d more of %s.", len(notification.events) - LISTED_MAX, notification.rule)


class WebhookTeller:
    """HTTP POST; any status of 200 to 299 is taken as received. No redirect is followed."""

    def __init__(self, channel: Webhook, token: str | None) -> None:
        self._channel = channel
        self._headers = {"Content-Type": "application/json", "User-Agent": "fieldline"}
        if token:
            self._headers["Authorization"] = f"Bearer {token}"
        self._pool = urllib3.PoolManager(num_pools=1, retries=False)

    async def tell(self, notification: Notification) -> None:
        """See Teller."""
        await asyncio.to_thread(self._post, notification)

    def _post(self, notification: Notification) -> None:
        body = json.dumps(notification.common() | {"events": notification.documents()}).encode()
        where = self._channel.url.split("?", 1)[0]  # a token may follow
        try:
            answer = self._pool.request(
                "POST",
                self._channel.url,
                body=body,
                headers=self._headers,
                timeout=urllib3.Timeout(total=self._channel.timeout_s),
            )
        except urllib3.exceptions.HTTPError as error:
            raise FieldlineError(f"The webhook {where} cannot be reached: {_plain(error)}") from error
        if not 200 <= answer.status < 300:
            raise FieldlineError(f"The webhook {where} answered with status {answer.status}.")


class MqttTeller:
    """Connects anew each time: alerts are rare, and a kept connection would be lost by then."""

    def __init__(self, name: str, channel: Mqtt) -> None:
        self._channel = channel
        self._client_id = f"fieldline-alerts-{name[:64]}-{secrets.token_hex(4)}"
        self._options = channel.options(self._client_id, connect_timeout_s=channel.timeout_s)

    async def tell(self, notification: Notification) -> None:
        """See Teller."""
        try:
            async with asyncio.timeout(self._channel.timeout_s):
                connection = await Connection.open(self._options, lambda _messages, _connection: None)
                try:
                    for event, document in zip(notification.events, notification.documents(), strict=True):
                        payload = json.dumps(notification.common() | document).encode()
                        topic = self._topic(notification, event)
                        await connection.publish(topic, payload, retain=self._channel.retain)
                finally:
                    await connection.close()
        except TimeoutError:
            raise FieldlineError(
                f"{self._options.peer} did not acknowledge within {self._channel.timeout_s:g} s."
            ) from None

    def _topic(self, notification: Notification, event: Event) -> str:
        fields = {"rule": notification.rule, **event.subject._asdict()}
        return self._channel.topic.format(**{name: _level(text) for name, text in fields.items()})


class EmailTeller:
    """SMTP (RFC 5321), one mail per notification."""

    def __init__(self, channel: Email, password: str | None) -> None:
        if not (channel.username or "").isascii() or not (password or "").isascii():
            raise ConfigError("username and password must be ASCII: Python's SMTP client sends no other")
        self._channel = channel
        self._password = password

    async def tell(self, notification: Notification) -> None:
        """See Teller."""
        await asyncio.to_thread(self._send, self._message(notification))

    def _message(self, notification: Notification) -> EmailMessage:
        message = EmailMessage()
        message["Subject"] = " ".join(notification.headline.split())[:200]
        message["From"] = self._channel.sender
        message["To"] = ", ".join(self._channel.recipients)
        message["Date"] = format_datetime(notification.events[0].at)
        message["Message-ID"] = make_msgid(str(notification.events[0].id), domain="fieldline")
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answer, please
        message.set_content(notification.text)
        return message

    def _send(self, message: EmailMessage) -> None:
        channel = self._channel
        where = f"{channel.host}:{channel.port}"
        context = ssl.create_default_context(cafile=channel.ca_file)
        try:
            if channel.security == "tls":
                connection: smtplib.SMTP = smtplib.SMTP_SSL(
                    channel.host, channel.port, timeout=channel.timeout_s, context=context
                )
            else:
                connection = smtplib.SMTP(channel.host, channel.port, timeout=channel.timeout_s)
            with connection:
                if channel.security == "starttls":
                    connection.starttls(context=context)
                if channel.username is not None and self._password is not None:
                    connection.login(channel.username, self._password)
                refused = connection.send_message(message)
        except (smtplib.SMTPException, OSError) as error:
            raise FieldlineError(f"The mail server {where} did not take the mail: {_plain(error)}") from error
        if refused:
            raise FieldlineError(f"The mail server {where} refused {', '.join(sorted(refused))}.")


def _level(text: str) -> str:
    """A name as a level of a topic: no separator, and no wildcard."""
    return "".join("_" if sign in "/+#\0" else sign for sign in text) or "_"


def _plain(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__

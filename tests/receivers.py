"""What receives alerts in tests, each a real server or client: a web server, a mail server, an MQTT subscriber."""

import json
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes
from email.message import Message
from email.policy import default
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from proof.ports import free_port
from tests.brokers import HOST


@dataclass
class Web:
    """A web server that keeps what is posted; `status` is what it answers."""

    port: int
    status: int = 200
    bodies: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}/hook"

    @property
    def events(self) -> list[dict[str, Any]]:
        return [event for body in self.bodies for event in body["events"]]


@contextmanager
def web() -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            receiver.authorizations.append(self.headers["Authorization"])
            if receiver.status == 200:
                receiver.bodies.append(body)
            self.send_response(receiver.status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer((HOST, 0), Handler) as server:
        receiver = Web(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()


@dataclass
class Mail:
    """A mail server that takes a login only over TLS."""

    port: int
    ca_file: Path
    messages: list[Message] = field(default_factory=list)

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802 - aiosmtpd's name
        self.messages.append(message_from_bytes(envelope.content, policy=default))
        return "250 taken"


@contextmanager
def mail(folder: Path, user: str, password: str) -> Iterator[Mail]:
    key, certificate = folder / "mail.key", folder / "mail.pem"
    subprocess.run(
        f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
        f" -addext subjectAltName=IP:127.0.0.1 -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    receiver = Mail(free_port(), certificate)
    wanted = (user.encode(), password.encode())
    controller = Controller(
        receiver,
        hostname=HOST,
        port=receiver.port,
        tls_context=context,
        require_starttls=True,
        auth_required=True,
        authenticator=lambda _server, _session, _envelope, _mechanism, data: AuthResult(
            success=(data.login, data.password) == wanted
        ),
    )
    controller.start()
    try:
        yield receiver
    finally:
        controller.stop()


@dataclass
class Heard:
    """What an MQTT subscriber has received, in order."""

    topics: list[str] = field(default_factory=list)
    documents: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def subscriber(port: int, topic: str) -> Iterator[Heard]:
    """A paho client that is subscribed when this returns."""
    heard, subscribed = Heard(), threading.Event()
    client = paho.Client(paho.CallbackAPIVersion.VERSION2)

    def on_message(_client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        heard.documents.append(json.loads(message.payload))
        heard.topics.append(message.topic)

    client.on_message = on_message
    client.on_subscribe = lambda *_: subscribed.set()
    client.connect(HOST, port)
    client.loop_start()
    client.subscribe(topic, qos=1)
    try:
        assert subscribed.wait(10)
        yield heard
    finally:
        client.disconnect()
        client.loop_stop()

"""The whole pipeline on one machine, as separate processes: what the demo, the drill and the tests run.

  device broker, trunk broker (embedded, or Mosquitto), ClickHouse (embedded), ingest, edge agent

`Stack` writes the config files into its directory, starts the programs in order, restarts what dies, and
reads the state of each part from outside: the spool's file, the tables, the fleet's report.
"""

import asyncio
import contextlib
import getpass
import json
import shutil
import sys
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from analytics.migrate import migrate
from analytics.queries import views
from edge_agent.health import read_report as read_agent
from edge_agent.spool_file import Status, read_status
from ingest.clickhouse.client import Client, connect
from proof.ports import Ports
from proof.supervisor import Program, tcp_listens
from telemetry.errors import FieldlineError

FIELDLINE = (sys.executable, "-m", "fieldline")
GATEWAY = "demo-gateway"


def embedded_broker(port: int) -> tuple[str, ...]:
    """The command of the embedded broker."""
    return (*FIELDLINE, "broker", "run", "--host", "127.0.0.1", "--port", str(port))


def mosquitto() -> str | None:
    """Where Mosquitto is installed, if it is."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def mosquitto_broker(program: str, port: int, directory: Path) -> tuple[str, ...]:
    """The command of a Mosquitto without limits on its queues; its config goes into `directory`."""
    config = directory / f"mosquitto-{port}.conf"
    config.write_text(
        f"listener {port} 127.0.0.1\nallow_anonymous true\nmax_queued_messages 0\n"
        f"max_inflight_messages 1000\nuser {getpass.getuser()}\n"
    )
    return (program, "-c", str(config))


@dataclass(slots=True)
class Stack:
    """One pipeline. The broker commands may be replaced (Mosquitto); `gateway_toml` adds to the config, `topics` are
    what the agent subscribes to.

    links: where the agent finds the brokers, and ingest finds ClickHouse, if not at `ports`.
    """

    directory: Path
    ports: Ports
    device_broker: Sequence[str] = ()
    trunk_broker: Sequence[str] = ()
    gateway_toml: str = ""
    topics: Sequence[str] = ()
    ingest_toml: str = ""
    links: Ports | None = None
    keepalive_s: int = 30
    programs: dict[str, Program] = field(default_factory=dict)

    def __post_init__(self) -> None:
        try:
            self._write_configs()
        except OSError as error:
            raise FieldlineError(f"cannot keep data in {self.directory}: {error.strerror}") from error
        self._define()

    def _write_configs(self) -> None:
        for folder in ("logs", "clickhouse"):
            (self.directory / folder).mkdir(parents=True, exist_ok=True)
        links = self.links or self.ports
        topics = f"topics = {json.dumps(self.topics)}\n" if self.topics else ""
        self.gateway_config.write_text(
            f'gateway = "{GATEWAY}"\n{self.gateway_toml}\n'
            f"[mqtt]\n{topics}port = {links.mqtt}\nkeepalive_s = {self.keepalive_s}\n\n"
            f'[coap]\nbind = "127.0.0.1"\nport = {self.ports.coap}\n\n'
            f"[uplink]\nport = {links.trunk}\nreconnect_s_max = 2.0\n"
            f"keepalive_s = {self.keepalive_s}\n"
        )
        self.ingest_config.write_text(
            f'clickhouse_url = "http://127.0.0.1:{links.clickhouse}"\n{self.ingest_toml}\n'
            f"[trunk]\nport = {self.ports.trunk}\nkeepalive_s = {self.keepalive_s}\n"
        )

    def _define(self) -> None:
        self.add("device-broker", self.device_broker or embedded_broker(self.ports.mqtt), self.ports.mqtt)
        self.add("trunk-broker", self.trunk_broker or embedded_broker(self.ports.trunk), self.ports.trunk)
        clickhouse = ("clickhouse", "run", "--path", str(self.directory / "clickhouse"))
        self.add(
            "clickhouse",
            (*FIELDLINE, *clickhouse, "--port", str(self.ports.clickhouse)),
            self.ports.clickhouse,
        )
        self.add("ingest", (*FIELDLINE, "ingest", "run", "--config", str(self.ingest_config)))
        edge = self.add("edge", (*FIELDLINE, "edge", "run", "--config", str(self.gateway_config)))
        edge.ready = self._agent_listens

    @property
    def gateway_config(self) -> Path:
        return self.directory / "gateway.toml"

    @property
    def ingest_config(self) -> Path:
        return self.directory / "ingest.toml"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.ports.clickhouse}"

    def add_dashboard(self) -> Program:
        """Define the dashboard, too."""
        serve = ("analytics", "serve", "--url", self.url, "--port", str(self.ports.web))
        files = ("--saved", str(self.directory / "statements.json"), "--gateway-config", str(self.gateway_config))
        return self.add("web", (*FIELDLINE, *serve, *files), self.ports.web)

    def add_alerts(self) -> Program:
        """Define what asks the rules of alerts, too: those of the dashboard, and two that are always of use."""
        config = self.directory / "alerts.toml"
        config.write_text(
            f'clickhouse_url = "{self.url}"\nevery_s = 1.0\n\n'
            '[[rules]]\nname = "gateway silent"\nkind = "silence"\nof = "gateway"\n'
            'after_s = 30\nseverity = "critical"\n\n'
            '[[rules]]\nname = "dead letters"\nkind = "dead_letters"\nover_s = 600\n'
        )
        return self.add("alerts", (*FIELDLINE, "alerts", "run", "--config", str(config)))

    def add(self, name: str, command: Sequence[str], port: int = 0, *, restart: bool = True) -> Program:
        """Define a program; `port` is the one it listens on when it is ready."""
        ready = tcp_listens(port) if port else None
        log_file = self.directory / "logs" / f"{name}.log"
        self.programs[name] = Program(name, command, log_file, ready, restart)
        return self.programs[name]

    @contextlib.asynccontextmanager
    async def running(self, names: Sequence[str] = ()) -> AsyncIterator["Stack"]:
        """Start the programs (default: all) in order, keep them alive, stop them in reverse order."""
        names = names or tuple(self.programs)
        watches = []
        try:
            for name in names:
                await self.start(name)
                watches.append(asyncio.create_task(self.programs[name].watch(), name=f"watch-{name}"))
            yield self
        finally:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)
            for program in reversed(list(self.programs.values())):
                await program.stop()

    async def start(self, name: str) -> None:
        """Start one program and wait until it is ready; ClickHouse also gets its schema."""
        self.programs[name].start()
        await self.programs[name].until_ready()
        if name == "clickhouse":
            await asyncio.to_thread(self._migrate)

    def _agent_listens(self) -> bool:
        """Devices can reach the agent: before its first subscription a broker would drop their messages."""
        report = read_agent(self.directory / "spool")
        if report is None or report.pid != self.programs["edge"].pid:
            return False
        return report.connected.get("mqtt", False) and report.connected.get("coap", False)

    def _migrate(self) -> None:
        client = connect(self.url, database="default")
        try:
            migrate(client)
            views.refresh(client)
        finally:
            client.close()

    def client(self) -> Client:
        """A new client of the stack's ClickHouse."""
        return connect(self.url)

    def spool_status(self) -> Status | None:
        """What the agent's spool holds; None before it exists."""
        with contextlib.suppress(FieldlineError):
            return read_status(self.directory / "spool")
        return None


def read_report(path: Path) -> dict[str, int]:
    """The fleet's report; empty before there is one."""
    with contextlib.suppress(OSError, ValueError):
        report: dict[str, int] = json.loads(path.read_text())
        return report
    return {}

"""The command line, and the only place that knows all packages. Each command imports what it needs."""

import logging
import re
import sys
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, Optional

import typer

from telemetry.errors import FieldlineError
from telemetry.program import log_to_stderr, told

if TYPE_CHECKING:
    from analytics.replay import Decode

app = typer.Typer(
    help="Telemetry from devices in the field to a ClickHouse table, with a receipt for every reading.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
edge_app = typer.Typer(no_args_is_help=True, help="The edge agent, which runs on the gateway.")
ingest_app = typer.Typer(no_args_is_help=True, help="The ingest tier, which runs in the cloud.")
clickhouse_app = typer.Typer(no_args_is_help=True, help="The embedded ClickHouse.")
broker_app = typer.Typer(no_args_is_help=True, help="The embedded MQTT broker.")
analytics_app = typer.Typer(no_args_is_help=True, help="The schema of the tables, and the dashboard.")
dead_letters_app = typer.Typer(no_args_is_help=True, help="Input that could not become readings.")
alerts_app = typer.Typer(no_args_is_help=True, help="Rules over the tables that tell somebody.")
app.add_typer(edge_app, name="edge")
app.add_typer(ingest_app, name="ingest")
app.add_typer(clickhouse_app, name="clickhouse")
app.add_typer(broker_app, name="broker")
app.add_typer(analytics_app, name="analytics")
app.add_typer(dead_letters_app, name="dead-letters")
app.add_typer(alerts_app, name="alerts")

Config = Annotated[Path, typer.Option("--config", "-c", help="The config file (TOML).")]
Url = Annotated[
    Optional[str],  # noqa: UP045 - as typer's documentation has it
    typer.Option(help="ClickHouse, as http://user:password@host:port/. Default: $CLICKHOUSE_URL, then localhost."),
]
Address = Optional[str]  # noqa: UP045 - as typer's documentation has it
SAMPLE = Path(__file__).parent / "data" / "la_haute_borne" / "2015-03.csv"
PORT_MAX = 65_535
Host = Annotated[str, typer.Option(help="The address to listen on.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
) -> None:
    if version:
        from importlib import metadata

        typer.echo(f"fieldline {metadata.version('fieldline')}")
        raise typer.Exit
    log_to_stderr(verbose=verbose)


def _exit(status: int) -> NoReturn:
    raise typer.Exit(status)


@edge_app.command("run")
def edge_run(config: Config) -> None:
    """Collect, keep on disk, and forward, until stopped."""
    from edge_agent.__main__ import become

    become(config, verbose=logging.getLogger().isEnabledFor(logging.DEBUG))


@edge_app.command("check")
def edge_check(
    config: Config,
    try_: Annotated[
        Optional[tuple[str, str]],  # noqa: UP045 - as typer's documentation has it
        typer.Option(
            "--try",
            metavar="TOPIC PAYLOAD",
            help="Show what would become of this message. PAYLOAD: - is standard input, @FILE a file.",
        ),
    ] = None,
    is_hex: Annotated[bool, typer.Option("--hex", help="The payload of --try is in hexadecimal digits.")] = False,
) -> None:
    """Check a config file: every problem as a sentence that names the file and the key.

    With --try the status is 1 if the message would be a dead letter, or the file cannot be used at all.
    """
    from edge_agent.check import check
    from edge_agent.config import load
    from edge_agent.preview import payload_of, try_message

    loaded = load(config) if try_ is not None else None
    if findings := check(config):
        print("\n".join(findings), file=sys.stderr)
    else:
        print(f"{config}: no problems found")
    if loaded is None or try_ is None:
        raise typer.Exit(bool(findings))
    try_message(loaded, try_[0], payload_of(try_[1], sys.stdin.buffer, is_hex=is_hex))


@edge_app.command("listen")
def edge_listen(
    config: Config,
    topic: Annotated[
        Optional[list[str]],  # noqa: UP045 - as typer's documentation has it
        typer.Option(metavar="FILTER", help="Listen to this instead of mqtt.topics; may be repeated."),
    ] = None,
    seconds: Annotated[
        Optional[float],  # noqa: UP045 - as typer's documentation has it
        typer.Option(min=0, help="Stop after so many seconds; default: at Ctrl-C."),
    ] = None,
    count: Annotated[
        Optional[int],  # noqa: UP045 - as typer's documentation has it
        typer.Option(min=1, help="Stop after so many messages."),
    ] = None,
) -> None:
    """Show what arrives at the device broker, and what becomes of it. The running agent is not disturbed."""
    from edge_agent.config import load
    from edge_agent.listen import Options, run

    run(load(config), Options(tuple(topic or ()), seconds, count))


@edge_app.command("spool")
def edge_spool(
    config: Config,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    verify: Annotated[
        bool, typer.Option("--verify", help="Read every record; exit status 1 if one is damaged.")
    ] = False,
    export: Annotated[
        Optional[Path],  # noqa: UP045 - as typer's documentation has it
        typer.Option(help="Copy the spool to this file, for `fieldline ingest import`."),
    ] = None,
) -> None:
    """Show what the spool holds: waiting records, bytes, seqs, the last receipt. Safe while the agent runs."""
    from edge_agent.config import load
    from edge_agent.spool_view import view, view_check
    from telemetry.clock import SystemClock

    settings = load(config)
    if export is not None:
        from edge_agent.spool_check import export as copy

        print(copy(settings.spool.path, export))
    elif verify:
        text, whole = view_check(settings)
        print(text)
        _exit(0 if whole else 1)
    else:
        print(view(settings, SystemClock(), as_json=as_json))


@ingest_app.command("run")
def ingest_run(config: Config) -> None:
    """Take batches in for the partitions of this worker, until stopped."""
    from ingest.config import load
    from ingest.run import run

    _exit(run(load(config)))


@ingest_app.command("import")
def ingest_import(
    file: Annotated[Path, typer.Argument(help="An export, or the spool.db of a gateway that is dead.")],
    config: Config,
    gateway: Annotated[str, typer.Option(help="Whose it is, if the file cannot say so any more.")] = "",
) -> None:
    """Bring a gateway's spool to ClickHouse by hand, over the trunk; what has already arrived is not stored twice."""
    from edge_agent.config import Uplink
    from edge_agent.importer import run
    from ingest.config import load

    settings = load(config)
    _exit(run(file, Uplink.model_validate(dict(settings.trunk) | {"partitions": settings.partitions}), gateway))


@clickhouse_app.command("run")
def clickhouse_run(
    path: Annotated[Path, typer.Option(help="The data directory; made if it does not exist.")],
    host: Host = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=PORT_MAX, help="The port of ClickHouse's HTTP interface; 0: a free one.")
    ] = 8123,
    user: Annotated[str, typer.Option(help="With --password-file: who may log in.")] = "default",
    password_file: Annotated[
        Optional[Path],  # noqa: UP045 - as typer's documentation has it
        typer.Option(help="Ask for the password in this file; default: everybody on --host may come in."),
    ] = None,
    users: Annotated[
        Optional[Path],  # noqa: UP045 - as typer's documentation has it
        typer.Option(help="Users with roles and limits (TOML, chmod 600; docs/sql.md)."),
    ] = None,
    memory_bytes_max: Annotated[
        Optional[int],  # noqa: UP045 - as typer's documentation has it
        typer.Option(min=2**28, help="Memory that all queries together may take."),
    ] = None,
) -> None:
    """Serve the embedded engine (chDB) behind ClickHouse's HTTP interface, until stopped."""
    from ingest.clickhouse.server import accounts_of, run

    accounts = accounts_of(users, user, password_file)
    run(path, host, port, accounts=accounts, memory_bytes_max=memory_bytes_max)


@clickhouse_app.command("password")
def clickhouse_password() -> None:
    """Read a password (asked for on a terminal, else one line of standard input) and print its hash for --users."""
    from ingest.clickhouse.users import hashed

    terminal = sys.stdin.isatty()
    password = typer.prompt("Password", hide_input=True, confirmation_prompt=True) if terminal else sys.stdin.readline()
    print(hashed(password.rstrip("\n")))


@broker_app.command("run")
def broker_run(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=PORT_MAX, help="The port for MQTT.")] = 1883,
) -> None:
    """Run the embedded broker (rumqttd), until stopped. It keeps nothing over a restart."""
    from broker_bridge.embedded import run

    run(host, port)


@analytics_app.command("migrate")
def analytics_migrate(
    url: Url = None,
    cluster: Annotated[
        Optional[str],  # noqa: UP045 - as typer's documentation has it
        typer.Option(help="Bring it to all servers of this cluster, as system.clusters names it; see docs/schema.md."),
    ] = None,
    print_: Annotated[bool, typer.Option("--print", help="Only print the statements; needs no server.")] = False,
) -> None:
    """Bring the database to the schema of this version; safe to repeat."""
    from analytics.migrate import print_statements, run

    _exit(print_statements(cluster) if print_ else run(url, cluster=cluster))


@analytics_app.command("serve")
def analytics_serve(
    url: Url = None,
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=PORT_MAX, help="The port of the dashboard; 0: a free one.")] = 8080,
    password_file: Annotated[
        Optional[Path],  # noqa: UP045 - as typer's documentation has it
        typer.Option(help="Ask for the password in this file; needed unless --host is this machine alone."),
    ] = None,
    saved: Annotated[Path, typer.Option(help="Where saved queries and the last ones are kept.")] = Path(
        "var/statements.json"
    ),
    gateway_config: Annotated[
        Optional[list[Path]],  # noqa: UP045 - as typer's documentation has it
        typer.Option(help="A gateway's config, or a folder of them, to replay dead letters with; may be repeated."),
    ] = None,
) -> None:
    """Serve the dashboard: fleet, readings and books in a web browser.

    Needs the extra `web` (pip install 'fieldline[cloud,web]'). Behind a proxy that ends TLS, keep the Host header.
    """
    try:
        from analytics.web.replaying import Configs
        from analytics.web.serve import pages, run
    except ModuleNotFoundError as error:
        raise FieldlineError(f"{error.name} is not installed. Run: pip install 'fieldline[cloud,web]'") from error
    run(url, host, port, password_file, pages(saved, Configs(_mapping, tuple(gateway_config or ()))))


def _mapping(text: str, name: str) -> "tuple[str, Decode]":
    """Of a gateway's config the gateway, and what decodes with its mappings."""
    from edge_agent.config import of_text
    from edge_agent.decode import Decoder

    settings = of_text(text, name)
    return settings.gateway, Decoder.alone(settings)


@analytics_app.command("rollup")
def analytics_rollup(
    url: Url = None,
    follow: Annotated[bool, typer.Option("--follow", help="Go on until stopped.")] = False,
) -> None:
    """Bring the stored rollups up to date; their numbers are exact also without, but slower to read."""
    from analytics.rollup import run

    _exit(run(url, follow=follow))


@analytics_app.command("backfill")
def analytics_backfill(url: Url = None) -> None:
    """Recompute all rollups from the raw table, month by month; goes on where it was killed."""
    from analytics.rollup import run_backfill

    _exit(run_backfill(url))


@analytics_app.command("grafana")
def analytics_grafana(
    out: Annotated[Path, typer.Option(help="The folder for the files; made if it does not exist.")],
) -> None:
    """Write Grafana's dashboards, data source and provider, to be put into its provisioning folders."""
    from analytics.grafana import run

    _exit(run(out))


@app.command("demo")
def demo(
    directory: Annotated[
        Path, typer.Option("--dir", help="Where the demo keeps its data; a second run continues.")
    ] = Path("var/demo"),
    seconds: Annotated[
        Optional[float],  # noqa: UP045 - as typer's documentation has it
        typer.Option(min=0, help="Stop sending after so many seconds; default: at the recording's end or Ctrl-C."),
    ] = None,
    csv: Annotated[Path, typer.Option(help="The recording of wind turbines to replay.")] = SAMPLE,
    speed: Annotated[
        float, typer.Option(min=0, help="Seconds of recorded time per second; 0: as fast as it goes.")
    ] = 3600.0,
    mqtt_port: Annotated[int, typer.Option(min=1, max=PORT_MAX, help="Port of the device broker.")] = 1883,
    coap_port: Annotated[int, typer.Option(min=1, max=PORT_MAX, help="UDP port of the agent's CoAP server.")] = 5683,
    trunk_port: Annotated[int, typer.Option(min=1, max=PORT_MAX, help="Port of the trunk's broker.")] = 1884,
    clickhouse_port: Annotated[int, typer.Option(min=1, max=PORT_MAX, help="Port of ClickHouse.")] = 8123,
    web_port: Annotated[int, typer.Option(min=1, max=PORT_MAX, help="Port of the dashboard.")] = 8080,
) -> None:
    """Four wind turbines, end to end, on this machine; ends with the books, exit status 0 if they are right."""
    import asyncio

    from firmware_stubs.replay import devices
    from proof.demo import Options, run
    from proof.ports import Ports

    logging.getLogger().setLevel(logging.WARNING)
    try:
        names = devices(csv)
    except OSError as error:
        raise FieldlineError(f"cannot replay {csv}: {error.strerror}") from error
    except ValueError as error:
        raise FieldlineError(f"cannot replay: {error}") from error
    ports = Ports(mqtt_port, coap_port, trunk_port, clickhouse_port, web_port)
    fleet = ("--csv", str(csv), "--speed", str(speed))
    try:
        status = asyncio.run(run(Options(directory, ports, fleet, names, seconds)))
    except asyncio.CancelledError:
        print("Stopped at once; the books were not closed. The next run takes up what is still waiting.")
        status = 130
    _exit(status)


@app.command("drill")
def drill(
    seconds: Annotated[float, typer.Option(min=1, help="How long to strike.")] = 180.0,
    seed: Annotated[int, typer.Option(help="Draws the schedule of faults.")] = 7,
    report: Annotated[
        Optional[Path],  # noqa: UP045 - as typer's documentation has it
        typer.Option(help="Write the outcome here as JSON."),
    ] = None,
    fault: Annotated[
        Optional[list[str]],  # noqa: UP045 - as typer's documentation has it
        typer.Option(help="Only faults of this name, as in the table at the end; may be repeated."),
    ] = None,
) -> None:
    """Break every part of the pipeline at random moments, then check the books, by count and value."""
    import asyncio

    from proof.drill import Options, run

    logging.getLogger().setLevel(logging.ERROR)
    options = Options(seconds, seed, report, tuple(fault)) if fault else Options(seconds, seed, report)
    _exit(asyncio.run(run(options)))


@app.command("simulate")
def simulate(
    mqtt: Annotated[Address, typer.Option(metavar="HOST:PORT", help="The device broker.")] = None,
    coap: Annotated[Address, typer.Option(metavar="HOST:PORT", help="The agent's CoAP server.")] = None,
    csv: Annotated[
        Optional[Path],  # noqa: UP045 - as typer's documentation has it
        typer.Option(help="Replay this recording instead of synthetic devices."),
    ] = None,
    speed: Annotated[
        float, typer.Option(min=0, help="With --csv: recorded seconds per second; 0: no waiting.")
    ] = 600.0,
    devices: Annotated[int, typer.Option(min=1, help="Synthetic devices.")] = 100,
    rate: Annotated[float, typer.Option(min=0.001, help="Messages per second of each synthetic device.")] = 1.0,
    metrics: Annotated[int, typer.Option(min=1, max=8, help="Metrics per message of synthetic devices.")] = 4,
    coap_share: Annotated[float, typer.Option(min=0, max=1, help="The share of devices that use CoAP.")] = 0.25,
    poison: Annotated[float, typer.Option(min=0, max=1, help="The share of messages that are broken.")] = 0.0,
    connections: Annotated[int, typer.Option(min=1, help="MQTT connections, and CoAP ports.")] = 4,
    seconds: Annotated[
        Optional[float],  # noqa: UP045 - as typer's documentation has it
        typer.Option(min=0, help="Stop sending after so many seconds."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the made-up values.")] = 1,
    report: Annotated[
        Optional[Path],  # noqa: UP045 - as typer's documentation has it
        typer.Option(help="Write the counts here as JSON, twice a second."),
    ] = None,
    journal: Annotated[
        Optional[Path],  # noqa: UP045 - as typer's documentation has it
        typer.Option(help="Write every acknowledged message here, as a line of JSON."),
    ] = None,
) -> None:
    """Run a fleet of devices over MQTT and CoAP; counts what was acknowledged to them."""
    from firmware_stubs.fleet import FleetOptions
    from firmware_stubs.fleet import main as run

    _exit(
        run(
            FleetOptions(
                mqtt=_address(mqtt),
                coap=_address(coap),
                csv=csv,
                speed=speed,
                devices=devices,
                rate_hz=rate,
                metrics=metrics,
                coap_share=coap_share,
                poison=poison,
                connections=connections,
                seconds=seconds,
                seed=seed,
                report=report,
                journal=journal,
            )
        )
    )


def _address(text: str | None) -> tuple[str, int] | None:
    if text is None:
        return None
    host, _, port = text.rpartition(":")
    if not host or not re.fullmatch(r"\d{1,5}", port, re.ASCII) or not 0 < int(port) <= PORT_MAX:
        raise FieldlineError(f"{text!r} must be HOST:PORT, e.g. 127.0.0.1:1883")
    return host, int(port)


@app.command("sql")
def sql(
    query: Annotated[str, typer.Argument(help="One statement; - reads it from standard input.")],
    url: Url = None,
    fmt: Annotated[
        Optional[str],  # noqa: UP045 - as typer's documentation has it
        typer.Option("--format", "-f", help="Any ClickHouse format, e.g. JSONEachRow, CSVWithNames, Parquet."),
    ] = None,
) -> None:
    """Run a query: a table on a terminal, TSV with names in a pipe, or any format."""
    from analytics.sql import run

    _exit(run(url, query, fmt))


@app.command("query", context_settings={"ignore_unknown_options": True, "help_option_names": []})
def query(
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Which one; none: list them.")] = "",
    values: Annotated[
        Optional[list[str]],  # noqa: UP045 - as typer's documentation has it
        typer.Argument(metavar="[--PARAMETER VALUE]...", help="A list's parameter may be repeated."),
    ] = None,
    url: Url = None,
    fmt: Annotated[
        Optional[str],  # noqa: UP045 - as typer's documentation has it
        typer.Option("--format", "-f", help="Any ClickHouse format, e.g. JSONEachRow, CSVWithNames, Parquet."),
    ] = None,
) -> None:
    """Run a named query; without a name, list them; NAME --help says what it gives and takes."""
    from analytics.queries.command import run

    _exit(run(url, name, values or [], fmt))


@app.command("account")
def account(
    url: Url = None,
    fmt: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print it.")] = "table",
) -> None:
    """Show the books of every gateway; exit status 1 when they are not right."""
    from analytics.account import run

    _exit(run(url, fmt))


Day = Optional[datetime]  # noqa: UP045 - as typer's documentation has it
DAY = {"formats": ["%Y-%m-%d"], "metavar": "YYYY-MM-DD"}


@app.command("export")
def export(
    destination: Annotated[
        str,
        typer.Argument(
            metavar="DEST", help="A directory, s3://BUCKET/PREFIX, or a store's http(s)://HOST/BUCKET/PREFIX."
        ),
    ],
    url: Url = None,
    table: Annotated[Literal["readings", "rollup_1m", "rollup_1h"], typer.Option(help="What to export.")] = "readings",
    first: Annotated[Day, typer.Option("--from", **DAY, help="The first day (UTC). Default: the earliest.")] = None,
    end: Annotated[
        Day, typer.Option("--to", **DAY, help="The day before which to end (UTC). Default: after the latest.")
    ] = None,
    partition: Annotated[Literal["date", "hour"], typer.Option(help="What a file holds: a day, or an hour.")] = "date",
    replace: Annotated[
        bool, typer.Option("--replace", help="Also write files anew that have more rows than the table still has.")
    ] = False,
) -> None:
    """Write Parquet files for pyarrow, DuckDB or Spark; again, and only what has changed is written.

    A store's keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.

    Exit status 1: a file is not up to date, because readings arrived while it was written.
    """
    from analytics.export import DATASETS, Span, run

    span = Span(first and first.date(), end and end.date(), partition)
    _exit(run(url, destination, DATASETS[table], span, replace=replace))


Reason = Annotated[str, typer.Option(help="Only those whose reason contains this.")]
OfGateway = Annotated[str, typer.Option("--gateway", help="Only those of this gateway.")]


@dead_letters_app.command("list")
def dead_letters_list(
    url: Url = None,
    gateway: OfGateway = "",
    reason: Reason = "",
    fmt: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print it.")] = "table",
) -> None:
    """Show the dead letters by reason, the most frequent first."""
    from analytics.dead_letters import Filter, list_

    _exit(list_(url, Filter(gateway, reason=reason), fmt))


@dead_letters_app.command("show")
def dead_letters_show(
    id_: Annotated[str, typer.Argument(metavar="ID", help="GATEWAY/EPOCH/SEQ, as `list` shows it.")] = "",
    url: Url = None,
    gateway: OfGateway = "",
    reason: Reason = "",
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many, the latest first.")] = 10,
    raw: Annotated[bool, typer.Option("--raw", help="Write the bytes of one, and nothing else.")] = False,
) -> None:
    """Show dead letters with their bytes: as text, or as a hex dump if they are none."""
    from analytics.dead_letters import Filter, show, write_raw

    chosen = Filter.of(id_, gateway, reason)
    _exit(write_raw(url, chosen, sys.stdout.buffer) if raw else show(url, chosen, limit))


@dead_letters_app.command("replay")
def dead_letters_replay(
    config: Config,
    id_: Annotated[str, typer.Argument(metavar="ID", help="One dead letter; default: all of the gateway.")] = "",
    url: Url = None,
    reason: Reason = "",
    dry: Annotated[bool, typer.Option("--dry-run", help="Say what would come of it; store nothing.")] = False,
    again: Annotated[
        bool, typer.Option("--again", help="Also those that were replayed; what they gave is replaced.")
    ] = False,
) -> None:
    """Decode dead letters with the mappings of this gateway's config, and store their readings, once."""
    from analytics.dead_letters import Filter
    from analytics.replay import run
    from edge_agent.config import load
    from edge_agent.decode import Decoder

    settings = load(config)
    chosen = Filter.of(id_, settings.gateway, reason)
    if chosen.gateway != settings.gateway:
        raise FieldlineError(f"{id_} is of another gateway; {config} is the config of {settings.gateway}")
    _exit(run(url, Decoder.alone(settings), chosen, dry=dry, again=again))


RuleName = Annotated[str, typer.Argument(metavar="RULE", help="The rule's name.")]
OfDevice = Annotated[str, typer.Option("--device", help="Only this device.")]
OfMetric = Annotated[str, typer.Option("--metric", help="Only this metric of the device.")]


@alerts_app.command("run")
def alerts_run(config: Config) -> None:
    """Ask the rules and tell the channels, until SIGTERM."""
    from analytics.alerts.rules import load
    from analytics.alerts.run import run

    _exit(run(load(config)))


@alerts_app.command("check")
def alerts_check(config: Config) -> None:
    """Check the file, ask every rule once, and show what it would do. Tells nobody."""
    from analytics.alerts.commands import check
    from analytics.alerts.rules import load

    _exit(check(load(config)))


@alerts_app.command("list")
def alerts_list(
    url: Url = None,
    every: Annotated[bool, typer.Option("--all", help="Also what is over.")] = False,
    fmt: Annotated[Literal["table", "json"], typer.Option("--format", help="How to print it.")] = "table",
) -> None:
    """Show what fires, the newest first."""
    from analytics.alerts.commands import list_

    _exit(list_(url, fmt, every=every))


@alerts_app.command("acknowledge")
def alerts_acknowledge(
    rule: RuleName, url: Url = None, device: OfDevice = "", metric: OfMetric = "", gateway: OfGateway = ""
) -> None:
    """Say that somebody looks after it: it is not told again until it fires anew."""
    from analytics.alerts.commands import acknowledge
    from analytics.alerts.conditions import Subject

    _exit(acknowledge(url, rule, Subject(device, metric, gateway)))


@alerts_app.command("mute")
def alerts_mute(
    rule: RuleName,
    for_s: Annotated[int, typer.Option("--for-s", min=0, help="For how many seconds; 0 ends it.")],
    url: Url = None,
    device: OfDevice = "",
    metric: OfMetric = "",
    gateway: OfGateway = "",
) -> None:
    """Tell nobody for a while. What fires is still shown by `list`."""
    from analytics.alerts.commands import mute
    from analytics.alerts.conditions import Subject

    _exit(mute(url, rule, Subject(device, metric, gateway), for_s))


@alerts_app.command("test")
def alerts_test(config: Config, channel: Annotated[str, typer.Argument(help="The channel's name.")]) -> None:
    """Send a test notification through a channel."""
    from analytics.alerts.commands import send_test
    from analytics.alerts.rules import load

    _exit(send_test(load(config), channel))


def main() -> None:
    """Entry point."""
    told(app)


if __name__ == "__main__":
    main()

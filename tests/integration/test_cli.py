"""The command line: its help, and what it says when it is used wrongly.

Every refusal is judged the same way: an exit status that is not 0, a sentence on stderr that names what is
wrong, nothing on stdout, and no traceback. Errors that options alone show (a word in a number's place) come
with Typer's usage lines; all others are one line.
"""

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib import metadata
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import fieldline as program
import proof.ports
from analytics.migrate import migrate
from ingest.clickhouse.client import connect
from proof.ports import free_port
from telemetry.errors import FieldlineError
from tests.brokers import HOST
from tests.clickhouse import Server, clickhouse
from tests.commands import Done, fieldline

NOWHERE = "http://127.0.0.1:1"


def refused(*arguments: object, cwd: Path, status: int = 1) -> str:
    """The sentence of a command that must be refused."""
    done = fieldline(*arguments, cwd=cwd)
    assert (done.status, done.out) == (status, ""), done
    (sentence,) = done.err.splitlines()
    return sentence


# ---- help and version


def commands() -> dict[str, object]:
    """Every command and group by its words, as Typer made them."""
    found: dict[str, object] = {}

    def walk(words: tuple[str, ...], node: object) -> None:
        found[" ".join(words)] = node
        for name, child in getattr(node, "commands", {}).items():
            walk((*words, name), child)

    walk((), typer.main.get_command(program.app))
    return found


COMMANDS = commands()
PROMISED = [
    *(
        "edge run",
        "edge check",
        "edge listen",
        "edge spool",
        "ingest run",
        "ingest import",
        "clickhouse run",
        "broker run",
        "analytics migrate",
        "analytics serve",
        "analytics rollup",
        "analytics backfill",
        "analytics grafana",
        "clickhouse password",
    ),
    *("alerts run", "alerts check", "alerts list", "alerts acknowledge", "alerts mute", "alerts test"),
    *("query", "export"),
    *("dead-letters list", "dead-letters show", "dead-letters replay"),
    *("demo", "drill", "simulate", "sql", "account"),
]


@pytest.mark.parametrize("words", COMMANDS)
def test_help_names_and_explains_every_option_and_command(words: str) -> None:
    shown = CliRunner().invoke(program.app, [*words.split(), "--help"], env={"COLUMNS": "300", "TERM": "dumb"})
    assert shown.exit_code == 0
    node = COMMANDS[words]
    assert f"fieldline {words}".split()[-1] in shown.output or not words
    for parameter in getattr(node, "params", ()):
        if parameter.param_type_name == "option":
            assert max(parameter.opts, key=len) in shown.output
        assert getattr(parameter, "help", None), f"{words} {parameter.name} has no help"
    for name, child in getattr(node, "commands", {}).items():
        assert name in shown.output
        assert str(child.get_short_help_str(30))[:20] in shown.output


def test_the_commands_are_those_of_the_readme() -> None:
    leaves = {words for words, node in COMMANDS.items() if not hasattr(node, "commands")}
    assert leaves == set(PROMISED)
    readme = (Path(program.__file__).parent / "README.md").read_text()
    for words in leaves - {"drill"}:
        assert f"fieldline {words}" in readme


def test_the_version() -> None:
    assert fieldline("--version") == Done(0, f"fieldline {metadata.version('fieldline')}\n", "")


@pytest.mark.parametrize("words", [(), ("edge",), ("analytics",)])
def test_a_command_left_out_shows_what_there_is(words: tuple[str, ...]) -> None:
    done = fieldline(*words)
    assert done.status == 2
    assert "Commands" in done.out + done.err


# ---- options that cannot be

USAGE = [
    ("nonsense", "No such command 'nonsense'"),
    ("edge nonsense", "No such command 'nonsense'"),
    ("edge run", "Missing option '--config'"),
    ("ingest run", "Missing option '--config'"),
    ("clickhouse run", "Missing option '--path'"),
    ("sql", "Missing argument"),
    ("sql 1 2", "unexpected extra argument"),
    ("account --format xml", "'xml' is not one of 'table', 'json'"),
    ("broker run --port many", "Invalid value for '--port'"),
    ("broker run --port 0", "Invalid value for '--port'"),
    ("broker run --port -1", "Invalid value for '--port'"),
    ("broker run --port 65536", "Invalid value for '--port'"),
    ("clickhouse run --path d --port 70000", "Invalid value for '--port'"),
    ("clickhouse run --path d --memory-bytes-max 1", "Invalid value for '--memory-bytes-max'"),
    ("demo --mqtt-port 65536", "Invalid value for '--mqtt-port'"),
    ("demo --coap-port 0", "Invalid value for '--coap-port'"),
    ("demo --trunk-port x", "Invalid value for '--trunk-port'"),
    ("demo --clickhouse-port -8123", "Invalid value for '--clickhouse-port'"),
    ("demo --seconds -1", "Invalid value for '--seconds'"),
    ("demo --speed -1", "Invalid value for '--speed'"),
    ("drill --seconds 0", "Invalid value for '--seconds'"),
    ("simulate --devices 0", "Invalid value for '--devices'"),
    ("simulate --rate 0", "Invalid value for '--rate'"),
    ("simulate --speed -1", "Invalid value for '--speed'"),
    ("simulate --metrics 9", "Invalid value for '--metrics'"),
    ("simulate --coap-share 1.5", "Invalid value for '--coap-share'"),
    ("simulate --poison -0.1", "Invalid value for '--poison'"),
    ("simulate --connections 0", "Invalid value for '--connections'"),
]


@pytest.mark.parametrize(("line", "said"), USAGE, ids=[line for line, _ in USAGE])
def test_options_that_cannot_be(line: str, said: str) -> None:
    shown = CliRunner().invoke(program.app, line.split(), env={"COLUMNS": "300", "TERM": "dumb"})
    assert shown.exit_code == 2
    assert said in " ".join(shown.stderr.split())
    assert shown.stdout == ""


def test_options_that_cannot_be_as_a_process(tmp_path: Path) -> None:
    done = fieldline("broker", "run", "--port", "65536", cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert "Invalid value for '--port'" in done.err


# ---- ports that are taken


@contextmanager
def taken(kind: socket.SocketKind = socket.SOCK_STREAM) -> Iterator[int]:
    with socket.socket(socket.AF_INET, kind) as other:
        other.bind((HOST, 0))
        if kind is socket.SOCK_STREAM:
            other.listen(1)
        yield int(other.getsockname()[1])


@pytest.mark.parametrize("line", ["broker run", "clickhouse run --path data"])
def test_a_servers_port_is_taken(line: str, tmp_path: Path) -> None:
    with taken() as port:
        said = refused(*line.split(), "--port", port, cwd=tmp_path)
    assert f"127.0.0.1:{port}" in said
    assert "another --port" in said
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("line", ["broker run", "clickhouse run --path data"])
def test_a_servers_address_is_not_of_this_machine(line: str, tmp_path: Path) -> None:
    said = refused(*line.split(), "--host", "192.0.2.1", "--port", free_port(), cwd=tmp_path)
    assert "192.0.2.1" in said


def test_a_port_of_the_demo_is_taken(tmp_path: Path) -> None:
    with taken(socket.SOCK_DGRAM) as port:
        said = refused("demo", "--dir", "d", *demo_ports(coap=port), cwd=tmp_path)
    assert f"UDP port {port} (the agent's CoAP server) is taken" in said
    assert "choose another with --coap-port" in said
    assert not (tmp_path / "d").exists(), "nothing is begun"


@pytest.mark.parametrize("name", ["mqtt", "trunk", "clickhouse"])
def test_every_port_of_the_demo_is_looked_at_before_it_begins(name: str) -> None:
    with taken() as port, pytest.raises(FieldlineError, match=f"TCP port {port} .* another with --{name}-port"):
        replace(proof.ports.free_ports(), **{name: port}).check_free()


def demo_ports(**given: int) -> list[str]:
    ports = asdict(proof.ports.free_ports()) | given
    return [str(word) for name, port in ports.items() for word in (f"--{name}-port", port)]


def test_a_port_given_twice_to_the_demo(tmp_path: Path) -> None:
    port = free_port()
    said = refused("demo", "--dir", "d", *demo_ports(mqtt=port, trunk=port), cwd=tmp_path)
    assert f"--mqtt-port and --trunk-port are both {port}" in said


# ---- places where nothing can be read or written (we may be root: permissions would not count)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A directory with a file in a directory's place, and configs."""
    (tmp_path / "file").write_text("not a directory")
    (tmp_path / "binary").write_bytes(bytes(range(128, 256)))
    (tmp_path / "good.toml").write_text(f'gateway = "g"\nspool.free_bytes_min = 0\ncoap.port = {free_port()}\n')
    (tmp_path / "bad.toml").write_text('gateway = "g g"\ncoap.port = 0\nuplink.batch_age_max_s = 1\n')
    (tmp_path / "nospool.toml").write_text('gateway = "g"\ncoap = {}\nspool.path = "file/spool"\n')
    return tmp_path


UNUSABLE = [
    ("clickhouse run --path file --port 0", "Cannot write to the data path", "another with --path"),
    ("clickhouse run --path d --password-file none", "cannot read --password-file none", "No such file"),
    ("demo --dir file/d", "cannot keep data in file/d", "a directory"),
    ("demo --csv none.csv", "cannot replay none.csv", "No such file"),
    ("demo --csv file", "cannot replay: file must have a header", "device, time"),
    ("drill --report none/report.json", "cannot write --report none/report.json", "no such directory"),
    ("edge run -c none.toml", "none.toml: cannot read the config", "No such file"),
    ("edge run -c .", ".: cannot read the config", "Is a directory"),
    ("edge run -c binary", "binary: is not valid TOML", "decode"),
    ("edge run -c nospool.toml", "cannot use spool.path", "file/spool"),
    ("edge spool -c none.toml", "none.toml: cannot read the config", "No such file"),
    ("edge spool -c good.toml --verify", "there is no spool in spool", "the agent has not run yet"),
    ("edge spool -c good.toml --export nowhere/copy.db", "cannot write nowhere/copy.db", "there is no directory"),
    ("edge spool -c good.toml --export copy.db", "there is no spool in spool", "the agent has not run yet"),
    ("edge spool -c good.toml", "there is no spool in spool", "the agent has not run yet"),
    ("ingest run -c none.toml", "none.toml: cannot read the config", "No such file"),
]


@pytest.mark.parametrize(("line", "what", "why"), UNUSABLE, ids=[line for line, _, _ in UNUSABLE])
def test_what_cannot_be_read_or_written_is_named(line: str, what: str, why: str, place: Path) -> None:
    said = refused(*line.split(), *(demo_ports() if line.startswith("demo") else []), cwd=place)
    assert what in said
    assert why in said


def test_a_spool_that_is_no_database(place: Path) -> None:
    (place / "spool").mkdir()
    (place / "spool" / "spool.db").write_bytes(bytes(range(256)) * 64)
    assert "cannot read the spool in spool" in refused("edge", "spool", "-c", "good.toml", cwd=place)


def test_a_config_with_several_mistakes_has_a_line_for_each(place: Path) -> None:
    for line in ("edge run", "edge check", "edge spool"):
        done = fieldline(*line.split(), "-c", "bad.toml", cwd=place)
        assert (done.status, done.out) == (1, "")
        keys = ["gateway", "coap.port", "uplink.batch_age_max_s is not a known key"]
        lines = done.err.splitlines()
        assert len(lines) == 3
        for key, said in zip(keys, lines, strict=True):
            assert f"bad.toml: {key}" in said


# ---- edge check


def test_check_of_a_good_config(place: Path) -> None:
    assert fieldline("edge", "check", "-c", "good.toml", cwd=place) == Done(0, "good.toml: no problems found\n", "")
    assert not (place / "spool").exists(), "it touches nothing"


def test_check_names_file_and_key_of_what_would_not_work(place: Path) -> None:
    (place / "deaf.toml").write_text('gateway = "g"\nspool.free_bytes_min = 0\nmqtt.topics = ["plant/+/state"]\n')
    said = refused("edge", "check", "-c", "deaf.toml", cwd=place)
    assert said.startswith("deaf.toml: mqtt.topics: 'plant/+/state' brings messages, and no mapping matches them")
    said = refused("edge", "check", "-c", "nospool.toml", cwd=place)
    assert said.startswith(f"nospool.toml: spool.path: {place / 'file'} is not a directory.")


def test_check_tries_a_message(place: Path) -> None:
    def tried(payload: str) -> Done:
        options = ("-c", "good.toml", "--try", "telemetry/t1", "-", "--hex")
        return fieldline("edge", "check", *options, cwd=place, stdin=payload.encode().hex(" "))

    good = tried('{"ts": 1767225600, "power": 1.5, "gust": null}')
    assert (good.status, good.err) == (0, "")
    assert good.out.startswith("good.toml: no problems found\nmapping: ")
    assert "│ t1     │ power  │   1.5 │      │ 2026-01-01T00:00:00.000Z │ time of the device │\n" in good.out
    broken = tried('{"power": [1]}')
    assert broken.status == 1
    assert broken.err.startswith("fieldline: it would become a dead letter: 'power' is an array")
    assert len(broken.err.splitlines()) == 1


def test_check_tries_a_message_although_there_is_something_to_say_of_the_file(place: Path) -> None:
    (place / "deaf.toml").write_text('gateway = "g"\nspool.free_bytes_min = 0\nmqtt.topics = ["plant/+/state"]\n')
    done = fieldline("edge", "check", "-c", "deaf.toml", "--try", "devices/a/telemetry", '{"power": 1}', cwd=place)
    assert done.status == 0
    assert done.err.startswith("deaf.toml: mqtt.topics: 'plant/+/state' brings messages")
    assert "No message comes to 'devices/a/telemetry'" in done.out
    assert "power" in done.out
    (place / "wrong.toml").write_text("gateway = 5\n")
    said = refused("edge", "check", "-c", "wrong.toml", "--try", "a/b", "1", cwd=place)
    assert said.count("gateway must") == 1


# ---- simulate

TABLE = "name,time,P\n"
AT = "2015-03-01T00:00:00+01:00"
RECORDINGS = {
    "empty": (b"", "must have a header: device, time, and at least one metric"),
    "binary": (bytes(range(256)), "is no CSV file"),
    "no number": (f"{TABLE}A,{AT},1\nA,{AT},much\n".encode(), "line 3: 'much' must be a number, or empty for none"),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_bad_recording_is_a_sentence(name: str, tmp_path: Path) -> None:
    content, sentence = RECORDINGS[name]
    (tmp_path / "bad.csv").write_bytes(content)
    said = refused("simulate", "--mqtt", "127.0.0.1:1", "--csv", "bad.csv", cwd=tmp_path, status=2)
    assert said.startswith("fieldline simulate: bad.csv")
    assert sentence in said


@pytest.mark.parametrize(
    ("line", "said", "status"),
    [
        ("", "give the fleet somewhere to send to: --mqtt HOST:PORT, --coap HOST:PORT, or both", 2),
        ("--mqtt nowhere", "'nowhere' must be HOST:PORT, e.g. 127.0.0.1:1883", 1),
        ("--coap 127.0.0.1:65536", "'127.0.0.1:65536' must be HOST:PORT", 1),
        ("--mqtt 127.0.0.1:0", "'127.0.0.1:0' must be HOST:PORT", 1),
        ("--mqtt 127.0.0.1:1 --csv none.csv", "cannot use none.csv: No such file or directory", 2),
        ("--mqtt 127.0.0.1:1 --csv .", "cannot use .: Is a directory", 2),
        ("--mqtt 127.0.0.1:1 --report none/r.json", "cannot use none/r.json.new: No such file or directory", 2),
        ("--mqtt 127.0.0.1:1 --journal none/j", "cannot use none/j: No such file or directory", 2),
    ],
)
def test_a_fleet_that_cannot_begin(line: str, said: str, status: int, tmp_path: Path) -> None:
    assert said in refused("simulate", *line.split(), cwd=tmp_path, status=status)


# ---- sql and account


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with clickhouse(tmp_path_factory.mktemp("cli") / "ch") as running:
        yield running


@pytest.mark.parametrize("line", ["sql SELECT", "account", "analytics migrate"])
def test_a_server_that_is_missing_is_named(line: str, tmp_path: Path) -> None:
    said = refused(*line.split(), "--url", NOWHERE, cwd=tmp_path)
    assert "No ClickHouse listens at http://127.0.0.1:1" in said
    assert "CLICKHOUSE_URL" in said


def test_a_url_that_is_none_and_one_in_the_environment(tmp_path: Path) -> None:
    assert "must begin with http:// or https://" in refused("account", "--url", "localhost:8123", cwd=tmp_path)
    assert NOWHERE in fieldline("account", cwd=tmp_path, CLICKHOUSE_URL=NOWHERE).err


@pytest.fixture(scope="module")
def migrated(server: Server) -> Server:
    """The same one, with its tables."""
    client = connect(server.url, database="default")
    migrate(client)
    client.close()
    return server


def test_a_server_without_tables_then_with_them(server: Server, tmp_path: Path) -> None:
    client = connect(server.url, database="default")
    client.command("DROP DATABASE IF EXISTS fieldline SYNC")
    client.close()
    for line in ("account", "sql SELECT"):
        assert "Run `fieldline analytics migrate`" in refused(*line.split(), "--url", server.url, cwd=tmp_path)
    first = fieldline("analytics", "migrate", cwd=tmp_path, CLICKHOUSE_URL=server.url)
    assert first.status == 0
    assert first.out.startswith("applied 0001_tables\n")
    assert fieldline("analytics", "migrate", "--url", server.url).out == "The database fieldline is up to date.\n"
    assert fieldline("account", "--url", server.url) == Done(0, "No gateway has sent anything yet.\n", "")
    as_json = fieldline("account", "--format", "json", "--url", server.url)
    assert (as_json.status, json.loads(as_json.out)["identity_holds"]) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "text", "code"),
    [
        (["SELEC 1"], "Syntax error: failed at position 1 (SELEC)", "SYNTAX_ERROR"),
        (["SELECT * FROM nowhere"], "'nowhere'", "UNKNOWN_TABLE"),
        (["SELECT 1", "--format", "Excel"], "Unknown format Excel", "UNKNOWN_FORMAT"),
        (["SELECT throwIf(1, 'boom')"], "boom", "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO"),
    ],
)
def test_an_sql_error_has_clickhouses_text_and_code(
    arguments: list[str], text: str, code: str, migrated: Server, tmp_path: Path
) -> None:
    said = refused("sql", "--url", migrated.url, *arguments, cwd=tmp_path)
    assert text in said
    assert f"({code})" in said


def test_a_query_by_standard_input_and_in_any_format(migrated: Server) -> None:
    query = "SELECT number AS n, 'é' AS t FROM numbers(2)"
    assert fieldline("sql", "-", "--url", migrated.url, stdin=query) == Done(0, "n\tt\n0\té\n1\té\n", "")
    assert fieldline("sql", query, "-f", "CSV", "--url", migrated.url) == Done(0, '0,"é"\n1,"é"\n', "")
    nothing = fieldline("sql", "-", "--url", migrated.url)
    assert (nothing.status, nothing.out) == (1, "")
    assert "There is no statement" in nothing.err

"""The embedded ClickHouse server: a large insert over HTTP, against the same statement in process on the same engine.

A child process serves, and on request runs the statement itself; the two take turns. Both begin with the same bytes in
memory and end with committed rows. In process the engine takes them from a file, which is written first; what the
statement takes when the file is already there is shown beside it. Merges are stopped, so that none runs beside one of
them only.
"""

import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from analytics.migrate import migrate
from bench.figure import Figure
from bench.ingest import BATCH_ROWS, BLOCK_ROWS, batches, blocks_of
from ingest.clickhouse import server, statement
from ingest.clickhouse.client import INSERT_SETTINGS, Client, connect, insert, known
from ingest.insert import Insert, Inserter
from proof.ports import free_ports

ROUNDS = 30
EMPTY_EVERY = 10

InProcess = Callable[[str, Mapping[str, object], str], tuple[float, float]]
"""File with the data, settings, a statement that reads them at `FILE` -> seconds in all, and for the statement."""
FILE = "FILE"


def run(directory: Path) -> list[Figure]:
    block = blocks_of(batches("e")[: BLOCK_ROWS // BATCH_ROWS])[0]
    with _child(directory / "data") as (client, in_process):
        native = Inserter(client, "bench", [0], threading.Event()).encode(block.target, block.rows)
        arrow = Insert(native.target, native.statement.replace("Native", "ArrowStream"), [_stream(block.rows)], "")
        return [
            figure
            for name, encoded in (("Native", native), ("ArrowStream", arrow))
            for figure in _compare(name, encoded, directory / name, client, in_process)
        ]


def _compare(name: str, encoded: Insert, file: Path, client: Client, in_process: InProcess) -> list[Figure]:
    file.write_bytes(b"".join(encoded.body))
    parsed = statement.parse(encoded.statement.encode() + b"\n")
    assert isinstance(parsed, statement.Insert)
    over_http_s, in_process_s, statement_s = [], [], []
    for number in range(ROUNDS):
        settings = known(client, {**INSERT_SETTINGS, "insert_deduplication_token": f"{name}-{number}-http"})
        began = time.perf_counter()
        insert(client, encoded.statement, encoded.body, settings)
        over_http_s.append(time.perf_counter() - began)
        settings["insert_deduplication_token"] = f"{name}-{number}-in-process"
        del settings["wait_end_of_query"]
        whole_s, alone_s = in_process(str(file), settings, parsed.from_file(FILE).decode())
        in_process_s.append(whole_s)
        statement_s.append(alone_s)
        if number % EMPTY_EVERY == EMPTY_EVERY - 1:
            stored = client.query("SELECT count() FROM fieldline.readings").result_rows[0][0]
            assert stored == 2 * EMPTY_EVERY * BLOCK_ROWS, f"{stored} rows are stored"
            client.command("TRUNCATE TABLE fieldline.readings")
    http, whole = statistics.median(over_http_s), statistics.median(in_process_s)
    what = f"insert of {BLOCK_ROWS:,} rows of {name}"
    return [
        Figure(f"{what}: rows/s over HTTP against in process", _ratio(in_process_s, over_http_s), "", at_least=0.9),
        Figure(f"{what}: the same, with the file already there", _ratio(statement_s, over_http_s), ""),
        Figure(f"{what}: over HTTP", 1000 * http, "ms"),
        Figure(f"{what}: in process", 1000 * whole, "ms"),
    ]


def _ratio(these: Sequence[float], those: Sequence[float]) -> float:
    """The median of the rounds' own ratios: the machine's speed drifts, and a round is short."""
    return statistics.median(this / that for this, that in zip(these, those, strict=True))


def _stream(rows: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write_table(rows)
    return bytes(sink.getvalue())


@contextmanager
def _child(path: Path) -> Iterator[tuple[Client, InProcess]]:
    port = free_ports().clickhouse
    command = [sys.executable, "-m", "bench.embedded", str(path), str(port)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        said, asked = child.stdout, child.stdin
        try:
            said.readline()  # it listens
            client = connect(f"http://127.0.0.1:{port}", database="default")
            migrate(client)
            client.command("SYSTEM STOP MERGES fieldline.readings")

            def in_process(data: str, settings: Mapping[str, object], text: str) -> tuple[float, float]:
                print(json.dumps([data, settings, text]), file=asked, flush=True)
                whole_s, alone_s = map(float, said.readline().split())
                return whole_s, alone_s

            yield client, in_process
            client.close()
        finally:
            child.terminate()


def _run_what_is_asked(path: Path) -> None:
    from chdb.state import sqlitelike  # noqa: PLC0415 -- it loads 500 MB, and only the child needs it

    file = path.with_name("handed-over")
    for line in sys.stdin:
        given, settings, text = json.loads(line)
        data = Path(given).read_bytes()
        with sqlitelike.connect(str(path)) as connection:
            began = time.perf_counter()
            file.write_bytes(data)
            connection.query("SET " + ", ".join(f"{name} = '{value}'" for name, value in settings.items()))
            written = time.perf_counter()
            connection.query(text.replace(FILE, str(file)))
            ended = time.perf_counter()
        file.unlink()
        print(ended - began, ended - written, flush=True)


if __name__ == "__main__":
    data, port_ = Path(sys.argv[1]), int(sys.argv[2])
    threading.Thread(target=_run_what_is_asked, args=(data,), daemon=True).start()
    server.run(data, port=port_)

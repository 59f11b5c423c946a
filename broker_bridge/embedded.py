"""`fieldline broker run`: an MQTT 3.1.1 broker (rumqttd, from the wheel iotcore) in this process.

For the demo, for tests and for a small gateway; production is Mosquitto, EMQX or a cloud's broker, and the
rest of the code sees only MQTT 3.1.1. It keeps everything in memory and **nothing over a restart**: sessions,
queues and retained messages are gone then. On the trunk that costs time, never data (the spool resends); on
the device side, messages that it acknowledged and no agent had yet taken are lost with it.

Memory. rumqttd keeps one log of messages per topic filter that anybody subscribed to: `SEGMENTS_MAX` segments
of `SEGMENT_BYTES_MAX`, of which the oldest goes when a new one begins, whether or not all subscribers have
read it. So under traffic a filter costs 64 MiB of messages (110 MB resident with messages of 50 kB), also
while nobody is behind; and a subscriber that is offline while more than 64 MiB come in loses the oldest
(1,000 devices at 100 B/s: 11 minutes). The device side usually has one filter, the trunk one per
partition. Raise `segments_max` on the device side for longer absences of the agent.

rumqttd cannot be stopped from within: SIGTERM and SIGINT end the process with status 0 at once.
"""

import argparse
import logging
import os
import signal
import socket
import sys
import tempfile
import threading
import time
from pathlib import Path

from telemetry.errors import FieldlineError

CONNECTIONS_MAX = 20_000
PAYLOAD_BYTES_MAX = 4 * 1024**2
INFLIGHT_MAX = 200
SEGMENT_BYTES_MAX = 8 * 1024**2
SEGMENTS_MAX = 8
_START_S_MAX = 10.0


def run(host: str = "127.0.0.1", port: int = 1883, *, segments_max: int = SEGMENTS_MAX) -> None:
    """Serve until SIGTERM or SIGINT. Ends the process: status 0 then, 1 with a sentence if it cannot listen.

    `segments_max`: how many segments of SEGMENT_BYTES_MAX to keep per topic filter. Main thread only.
    """
    try:
        _check_free(host, port)
    except FieldlineError as error:
        sys.exit(str(error))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    failed: list[str] = []
    thread = threading.Thread(target=_serve, args=(config(host, port, segments_max), failed, stop), daemon=True)
    thread.start()
    if _listens(host, port, stop) and not failed:
        print(f"MQTT broker (rumqttd) listens on {host}:{port}; it keeps nothing over a restart", flush=True)
        stop.wait()
    elif not stop.is_set():
        failed.append(f"it did not listen within {_START_S_MAX:.0f} s")
    if failed:
        print(f"The MQTT broker cannot run on {host}:{port}: {failed[0]}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(1 if failed else 0)


def config(host: str, port: int, segments_max: int) -> str:
    """The configuration file (TOML) for rumqttd."""
    return f"""
id = 0
[router]
id = 0
max_connections = {CONNECTIONS_MAX}
max_outgoing_packet_count = {INFLIGHT_MAX}
max_segment_size = {SEGMENT_BYTES_MAX}
max_segment_count = {segments_max}
[v4.1]
name = "mqtt-3.1.1"
listen = "{_bracketed(host)}:{port}"
next_connection_delay_ms = 0
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = {PAYLOAD_BYTES_MAX}
max_inflight_count = {INFLIGHT_MAX}
dynamic_filters = true
"""


def _serve(text: str, failed: list[str], stop: threading.Event) -> None:
    from iotcore.iotcore import IotCoreBroker  # noqa: PLC0415 -- after the port's check: its sentence is better

    # rumqttd wraps what it does per message in error spans: below CRITICAL it logs every packet
    logging.getLogger("rumqttd").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rumqttd.toml"
        path.write_text(text)
        try:
            broker = IotCoreBroker(config_path=str(path))
        except Exception as error:  # noqa: BLE001 -- a thread's outer edge: whatever it is ends the program
            failed.append(str(error))
            stop.set()
            return
    try:
        broker.run_forever()
        failed.append("it ended by itself")
    except Exception as error:  # noqa: BLE001 -- as above
        failed.append(str(error))
    stop.set()


def _check_free(host: str, port: int) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(address)
            probe.listen(1)
    except OSError as error:
        raise FieldlineError(
            f"The MQTT broker cannot listen on {host}:{port}: {error.strerror}."
            " Stop what uses the port, or choose another --port."
        ) from error


def _listens(host: str, port: int, stop: threading.Event) -> bool:
    reachable = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    deadline = time.monotonic() + _START_S_MAX
    while time.monotonic() < deadline and not stop.is_set():
        try:
            with socket.create_connection((reachable, port), timeout=1):
                return True
        except OSError:
            stop.wait(0.02)
    return False


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def main() -> None:
    """`python -m broker_bridge.embedded`, for tests and for running without the command line."""
    parser = argparse.ArgumentParser(description="Embedded MQTT 3.1.1 broker")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--segments-max", type=int, default=SEGMENTS_MAX)
    given = parser.parse_args()
    run(given.host, given.port, segments_max=given.segments_max)


if __name__ == "__main__":
    main()

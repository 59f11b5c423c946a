"""The systems of the comparison, in the order of measuring. Why each is set up as it is: its folder's README."""

import sys
from collections.abc import Sequence

from bench.peers.install import NODE
from bench.peers.peer import HERE, Peer, Place, Process


def _fieldline(_: Place) -> Sequence[Process]:
    return ()  # its programs are the pipeline's


def _script(place: Place, name: str) -> Sequence[Process]:
    script = HERE / name / "mqtt_to_clickhouse.py"
    return [Process("script", (sys.executable, str(script), str(place.ports.mqtt), str(place.ports.clickhouse)))]


def _mq_bridge(place: Place) -> Sequence[Process]:
    route = place.render(HERE / "mq_bridge" / "route.yaml")
    command = (str(place.installed / "bin" / "python"), str(HERE / "mq_bridge" / "run.py"), str(route))
    return [Process("mq-bridge", command, {"MQB_SOURCE_METADATA": "1"})]


def _node_red(place: Place) -> Sequence[Process]:
    flows, settings = (place.render(HERE / "node_red" / name) for name in ("flows.json", "settings.js"))
    modules = place.installed / "node_modules"
    user = place.directory / "node-red"
    user.mkdir()
    (user / "node_modules").symlink_to(modules)
    red = (str(modules / NODE / "bin" / "node"), str(modules / "node-red" / "red.js"))
    return [Process("node-red", (*red, "--settings", str(settings), "--userDir", str(user), str(flows)))]


def _thingsboard(place: Place) -> Sequence[Process]:
    for folder in ("config", "data", "gateway-logs"):
        (place.directory / folder).mkdir()
    for name in ("tb_gateway.json", "mqtt.json", "logs.json"):
        place.render(HERE / "thingsboard_gateway" / name, "config")
    stand_in = (sys.executable, "-m", "bench.peers.thingsboard_gateway.stand_in")
    gateway = str(place.installed / "bin" / "thingsboard-gateway")
    return [
        Process("stand-in", (*stand_in, str(place.ports.trunk), str(place.ports.clickhouse))),
        Process("gateway", (gateway,), {"TB_GW_CONFIG_DIR": str(place.directory / "config")}),
    ]


PEERS = (
    Peer(
        "fieldline",
        "Fieldline",
        offered=150_000,
        processes=_fieldline,
        packages=("fieldline",),
        gateway=("edge",),
        elsewhere=("trunk-broker", "ingest"),
        table="fieldline.readings",
    ),
    Peer("mq_bridge", "mq-bridge", 100_000, _mq_bridge, ("mq-bridge",), gateway=("mq-bridge",)),
    Peer(
        "node_red",
        "Node-RED",
        offered=40_000,
        processes=_node_red,
        packages=("node-red", "node-red-contrib-clickhouse", NODE),
        gateway=("node-red",),
    ),
    Peer(
        "thingsboard_gateway",
        "thingsboard-gateway",
        offered=15_000,
        processes=_thingsboard,
        packages=("thingsboard-gateway",),
        gateway=("gateway",),
        stand_ins=("trunk-broker", "stand-in"),
    ),
    Peer(
        "script_batched",
        "a script, in batches",
        offered=60_000,
        processes=lambda place: _script(place, "script_batched"),
        packages=("paho-mqtt", "clickhouse-connect"),
        gateway=("script",),
    ),
    Peer(
        "script_first",
        "a script, as written first",
        offered=1_000,
        processes=lambda place: _script(place, "script_first"),
        packages=("paho-mqtt", "clickhouse-connect"),
        gateway=("script",),
    ),
)

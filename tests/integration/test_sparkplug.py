"""A Sparkplug session, played by Eclipse Tahu's library through a real Mosquitto to the real agent.

Birth, a kill of the agent, data, a gap, rebirths on request, an alias that nobody knows, and death: in the end the
spool holds exactly the readings that the edge node sent, and as dead letters what could be none.
"""

import asyncio
import queue
from collections import Counter
from pathlib import Path

import paho.mqtt.client as paho
from tahutils.tahu import sparkplug_b as tahu
from tahutils.tahu.sparkplug_b_pb2 import Payload

from edge_agent.sparkplug.payload import REBIRTH
from proof.stack import Stack
from tests.brokers import HOST, wait_until
from tests.gateway import spooled
from tests.pipeline import make_stack
from tests.records import NEW_YEAR_MS

SPARKPLUG = """
[sparkplug]
rebirth_interval_s = 0.5
"""
NODE, DEVICE = "Plant 7/press", "Plant 7/press/motor"
TYPES = tahu.MetricDataType
METRICS = {  # device, alias, datatype
    "Tank/Level": (NODE, 1, TYPES.Double),
    "Speed": (DEVICE, 2, TYPES.Int16),
    "Running": (DEVICE, 3, TYPES.Boolean),
}
UNTIMED = ("sparkplug/online", "bdSeq")
"""Metrics whose time is the payload's, which is now."""

Reading = tuple[str, str, int, float]


class EdgeNode:
    """An edge node with one device. It knows what the agent has to make of what it says: `sent` and `letters`."""

    def __init__(self, port: int) -> None:
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2, "press")
        self.commands: queue.Queue[bytes] = queue.Queue()
        self.sent: Counter[Reading] = Counter()
        self.letters: list[bytes] = []
        self.at_ms = NEW_YEAR_MS
        self.client.on_message = lambda _client, _data, message: self.commands.put(message.payload)
        death = tahu.getNodeDeathPayload()
        self.death = death.SerializeToString()
        self.client.will_set(topic("NDEATH"), self.death, qos=1)
        self.client.connect(HOST, port)
        self.client.subscribe(topic("NCMD"), qos=1)
        self.client.loop_start()

    def metric(self, payload: Payload, name: str, value: float, *, named: bool = False) -> None:
        """Add a metric with its value, a second later than the one before. It is named in births only."""
        self.at_ms += 1000
        device, alias, datatype = METRICS[name]
        tahu.addMetric(payload, name if named else None, alias, datatype, value, self.at_ms)
        self.sent[device, name, self.at_ms, float(value)] += 1

    def births(self) -> None:
        node = tahu.getNodeBirthPayload()
        tahu.addMetric(node, REBIRTH, None, TYPES.Boolean, False, NEW_YEAR_MS)
        self.sent[NODE, REBIRTH, NEW_YEAR_MS, 0.0] += 1
        self.metric(node, "Tank/Level", 0.5, named=True)
        self.publish("NBIRTH", node)
        device = tahu.getDeviceBirthPayload()
        self.metric(device, "Speed", -1200, named=True)
        self.metric(device, "Running", True, named=True)
        self.publish("DBIRTH", device)
        self.sent[NODE, "bdSeq", 0, float(tahu.bdSeq - 1)] += 1
        self.sent[NODE, "sparkplug/online", 0, 1.0] += 1
        self.sent[DEVICE, "sparkplug/online", 0, 1.0] += 1

    def data(self) -> None:
        """A level, and the device's speed."""
        node = tahu.getDdataPayload()
        self.metric(node, "Tank/Level", 0.25)
        self.publish("NDATA", node)
        device = tahu.getDdataPayload()
        self.metric(device, "Speed", -1250)
        self.publish("DDATA", device)

    def publish(self, kind: str, payload: Payload) -> bytes:
        raw = payload.SerializeToString()
        self.client.publish(topic(kind), raw, qos=0).wait_for_publish(10)
        return raw

    def rebirth(self) -> None:
        """Wait until the agent asks for it, as a working plant does: sending data."""
        while True:
            try:
                command = Payload.FromString(self.commands.get(timeout=0.1))
                break
            except queue.Empty:
                self.data()
        assert [(m.name, m.datatype, m.boolean_value) for m in command.metrics] == [(REBIRTH, TYPES.Boolean, True)]
        self.births()

    def dies(self) -> None:
        """The connection breaks: the broker says what was left as will."""
        self.client.on_disconnect = None
        self.client.loop_stop()
        self.client.socket().close()
        for device in (NODE, DEVICE):
            self.sent[device, "sparkplug/online", 0, 0.0] += 1


def topic(kind: str) -> str:
    return f"spBv1.0/Plant 7/{kind}/press" + ("/motor" if kind.startswith("D") else "")


def test_birth_kill_data_gap_rebirth_and_death(tmp_path: Path) -> None:
    async def main() -> None:
        stack = make_stack(tmp_path, SPARKPLUG)
        config = stack.gateway_config
        config.write_text(config.read_text().replace("[mqtt]\n", '[mqtt]\ntopics = ["spBv1.0/#"]\n'))
        async with stack.running(["device-broker", "edge"]):
            await asyncio.to_thread(play, stack)

    asyncio.run(main())


def play(stack: Stack) -> None:
    node = EdgeNode(stack.ports.mqtt)
    node.births()
    holds(stack, node)

    edge = stack.programs["edge"]
    edge.kill()
    assert edge.ready is not None
    wait_until(edge.ready, "the next agent has subscribed")
    node.data()  # by aliases of a birth that only the former agent has heard
    holds(stack, node)
    node.rebirth()  # the agent cannot know what it has missed
    holds(stack, node)

    tahu.getSeqNum()  # a message that never arrives
    node.data()
    node.rebirth()
    node.data()
    holds(stack, node)

    unknown = tahu.getDdataPayload()
    tahu.addMetric(unknown, None, 99, TYPES.Double, 1.0, NEW_YEAR_MS)
    node.letters.append(node.publish("NDATA", unknown))
    node.rebirth()
    holds(stack, node)

    node.dies()
    holds(stack, node)

    again = EdgeNode(stack.ports.mqtt)
    again.sent, again.letters = node.sent, [*node.letters, node.death]
    again.births()
    again.client.publish(topic("NDEATH"), node.death, qos=1).wait_for_publish(10)  # late, from the former session
    again.data()
    holds(stack, again)
    again.client.disconnect()
    again.client.loop_stop()


def holds(stack: Stack, node: EdgeNode) -> None:
    """The spool comes to hold what the node has sent, all of it and nothing else."""

    def found() -> tuple[Counter[Reading], list[bytes]]:
        readings, dead = spooled(stack.directory / "spool")
        timed = Counter[Reading]()
        for (device, metric, at_ms, value), count in readings.items():
            timed[device, metric, 0 if metric in UNTIMED else at_ms, value] += count
        return timed, [letter.raw for letter in dead]

    wait_until(lambda: found()[0].total() + len(found()[1]) >= node.sent.total() + len(node.letters), "all is there")
    assert found() == (node.sent, node.letters)

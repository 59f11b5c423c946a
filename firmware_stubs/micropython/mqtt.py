"""MQTT 3.1.1 as far as a device needs it that publishes: QoS 2 or 1, one message on its way, a last will.

QoS 1 means at least once: if the connection ends before the PUBACK, the message goes again and the broker takes it for
another. With QoS 2 it does not, if both sides remember: the broker by the kept session, the device by the ring. A
record's packet id is made from its number, and that the broker has it (PUBREC) is in the ring, as its note, before
PUBREL is said. So a repetition is none after a power cut either.

The broker has the device's state retained in devices/DEVICE/status: {"online": true}, or false as the last will.
"""

import asyncio
import struct

import config

CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, PINGREQ, PINGRESP = 2, 3, 4, 5, 6, 7, 12, 13
KEEPALIVE_S = 30
ANSWER_S_MAX = 10


def text(value):
    data = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(data)) + data


def packet(first, body):
    length, rest = bytearray(), len(body)
    while True:
        length.append(rest % 128 | (128 if rest > 127 else 0))
        rest //= 128
        if not rest:
            return bytes([first]) + bytes(length) + body


class Mqtt:
    """Whatever fails raises OSError or asyncio.TimeoutError: close, wait, open again."""

    def __init__(self, ring):
        self._ring = ring
        self._sent = ring.last  # up to here a message may have been sent before: by an earlier boot
        self._reader = self._writer = None

    async def open(self):
        streams = asyncio.open_connection(config.HOST, config.PORT)
        self._reader, self._writer = await asyncio.wait_for(streams, ANSWER_S_MAX)
        status = "devices/%s/status" % config.DEVICE
        flags = 0x2C | (0xC0 if config.USER else 0)  # a will, QoS 1, retained; the session is kept
        body = text("MQTT") + bytes([4, flags]) + struct.pack(">H", KEEPALIVE_S) + text(config.DEVICE)
        body += text(status) + text('{"online": false}')
        if config.USER:
            body += text(config.USER) + text(config.PASSWORD)
        await self._write(packet(0x10, body))
        answer = await self._answer(CONNACK)
        if answer[1]:
            raise OSError("the broker refuses: %d" % answer[1])
        if not answer[0] & 1 and self._ring.note:  # the broker has forgotten what it had: once more
            self._ring.remember(0)
        await self._write(packet(0x31, text(status) + b'{"online": true}'))

    def close(self):
        if self._writer:
            self._writer.close()
        self._reader = self._writer = None

    async def send(self, number, payload):
        """Publish a record; returns when the broker has confirmed it."""
        id_bytes = struct.pack(">H", number % 65535 + 1)
        if self._ring.note != number:
            dup = 8 if number <= self._sent else 0
            self._sent = max(self._sent, number)
            topic = text("devices/%s/telemetry" % config.DEVICE)
            await self._write(packet(PUBLISH << 4 | dup | config.QOS << 1, topic + id_bytes + payload))
            await self._answer(PUBACK if config.QOS == 1 else PUBREC, id_bytes)
            if config.QOS == 1:
                return
            self._ring.remember(number)
        await self._write(packet(PUBREL << 4 | 2, id_bytes))
        await self._answer(PUBCOMP, id_bytes)

    async def idle(self):
        """Nothing to send for half of the keep-alive."""
        await self._write(packet(PINGREQ << 4, b""))
        await self._answer(PINGRESP)

    async def _write(self, data):
        self._writer.write(data)
        await self._writer.drain()

    async def _answer(self, kind, body=b""):
        """The next packet of this kind (and body); others are old answers."""
        while True:
            got, content = await asyncio.wait_for(self._read(), ANSWER_S_MAX)
            if got == kind and content[: len(body)] == body:
                return content

    async def _read(self):
        first = (await self._reader.readexactly(1))[0]
        length = shift = 0
        while True:
            byte = (await self._reader.readexactly(1))[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        return first >> 4, await self._reader.readexactly(length) if length else b""

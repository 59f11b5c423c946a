"""CoAP (RFC 7252) as far as a device needs it that posts: one confirmable message on its way.

A reading is done with at 2.04 (it is on the gateway's disk) or 4.00 (it never will be a reading; the gateway keeps
the bytes). After silence the gateway may have it all the same. It knows a repetition by address and port, message
id, token and content: so LOCAL_PORT is fixed, and id and token are made from the record's number, the same also
after a power cut. The gateway remembers for four minutes: what was repeated without success for longer may be there
twice, with the same `n`.

After 5.03 the message was not taken, and its id stands for that answer: the next attempt is a new message. The
ring's note counts these: id = number + note.

Not here, because the agent does not need it: separate responses, block-wise bodies, DTLS.
"""

import asyncio
import random
import socket
import struct
import time

import config

CHANGED, BAD_REQUEST, JSON = 0x44, 0x80, 50
TRANSMISSIONS_MAX = 5
POLL_MS = 10


def option(delta, value):
    """Deltas up to 12; lengths up to 268."""
    length = len(value)
    return bytes([delta << 4 | length] if length < 13 else [delta << 4 | 13, length - 13]) + value


class Coap:
    """Whatever fails raises OSError: close, wait, open again."""

    def __init__(self, ring):
        self._ring = ring
        self._socket = None

    async def open(self):
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
            self._socket.bind(socket.getaddrinfo("0.0.0.0", config.LOCAL_PORT)[0][-1])
            self._socket.connect(socket.getaddrinfo(config.HOST, config.PORT)[0][-1])

    def close(self):
        if self._socket:
            self._socket.close()
        self._socket = None

    async def send(self, number, payload):
        """Post a record; returns when the gateway has decided."""
        note = self._ring.note
        head = struct.pack(">BBHII", 0x48, 2, (number + note) & 0xFFFF, number, note)
        path = option(11, b"telemetry") + option(0, config.DEVICE.encode())
        message = head + path + option(1, bytes([JSON])) + b"\xff" + payload
        wait_ms = config.ACK_TIMEOUT_MS * (2 + random.random()) / 2
        for _ in range(TRANSMISSIONS_MAX):
            try:
                self._socket.send(message)
                answer = await self._answer(head, wait_ms)
            except OSError:  # nobody listens there now: wait as if nothing had come
                answer = await asyncio.sleep_ms(int(wait_ms))
            wait_ms *= 2
            if answer:
                return self._settle(answer)
        raise OSError("silence")

    def _settle(self, answer):
        code = answer[1]
        if code != CHANGED:
            print("answered %d.%02d" % (code >> 5, code & 31), answer.split(b"\xff", 1)[-1])
        if code >> 5 != 2 and code != BAD_REQUEST:
            self._ring.remember(self._ring.note + 1)
            raise OSError("not now")

    async def idle(self):
        """CoAP keeps no connection."""

    async def _answer(self, head, wait_ms):
        """The acknowledgement of this message, or None."""
        started = time.ticks_ms()
        while time.ticks_diff(time.ticks_ms(), started) < wait_ms:
            try:
                answer = self._socket.recv(1152)
            except OSError as error:
                if error.errno != 11:  # EAGAIN: nothing yet
                    raise
                await asyncio.sleep_ms(POLL_MS)
                continue
            if len(answer) >= 12 and answer[0] == 0x68 and answer[2:12] == head[2:12]:
                return answer
        return None

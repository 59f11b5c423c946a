"""A sensor that keeps what it measures until the gateway side has confirmed it. See README.md; settings: config.py.

Run in MicroPython's Unix port (1.28, x86-64) against Mosquitto 2.0.11 and the agent, over MQTT and CoAP, by
tests/integration/test_stubs.py, which kills it and the agent and restarts the broker. Not run on a board.
"""

import asyncio
import time

import config
from device import Device, retry_ms

if config.TRANSPORT == "mqtt":
    from mqtt import KEEPALIVE_S
    from mqtt import Mqtt as Transport
else:
    from coap import Coap as Transport

    KEEPALIVE_S = 3600

LOOK_MS = 20  # how often to look whether a record waits


async def deliver(device, transport, done):
    """Send what waits, the oldest first; for ever, or until `done` and nothing waits."""
    ring, failures = device.ring, 0
    await device.until_dated()
    while ring.waiting() or not done():
        try:
            await transport.open()
            while ring.waiting() or not done():
                if not ring.waiting():
                    await idle(ring, transport, done)
                    continue
                number = ring.done + 1
                message = device.message(number)
                if message:
                    await transport.send(number, message)
                ring.acknowledged(number)
                print("acknowledged", number)
                failures = 0
        except (OSError, EOFError, asyncio.TimeoutError) as error:
            failures += 1
            pause_ms = retry_ms(failures)
            print("%r, again in %d ms" % (error, pause_ms))
            transport.close()
            await asyncio.sleep_ms(pause_ms)
    transport.close()


async def idle(ring, transport, done):
    started = time.ticks_ms()
    while not ring.waiting() and not done():
        if time.ticks_diff(time.ticks_ms(), started) > KEEPALIVE_S * 500:
            await transport.idle()
            return
        await asyncio.sleep_ms(LOOK_MS)


async def main():
    device = Device()
    measuring = asyncio.create_task(device.measure())
    await deliver(device, Transport(device.ring), measuring.done)


asyncio.run(main())

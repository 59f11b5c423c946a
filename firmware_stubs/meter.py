"""An energy meter: posts its readings over CoAP (RFC 7252), one confirmable message each.

    python -m firmware_stubs.meter --gateway 127.0.0.1:5683 --device meter-1

What matters on the device: a reading is done with when the gateway answers 2.04 (it is on the gateway's
disk) or 4.00 (it will never be accepted; the gateway keeps the bytes). 5.03 and silence mean: again, later. After
silence the gateway may have the reading all the same; only a repetition of the same CoAP message, which the
CoAP library makes for about a minute, is recognised as one.
"""

import argparse
import asyncio
import contextlib
import json
import random
import signal
import sys
import time
from urllib.parse import quote

import aiocoap
from aiocoap.error import Error

JSON = 50
AGAIN_S = 2.0


async def post(context: aiocoap.Context, uri: str, payload: bytes) -> str:
    """Post until the gateway has decided; empty when it took the reading, else its sentence."""
    while True:
        request = aiocoap.Message(code=aiocoap.POST, uri=uri, payload=payload, content_format=JSON)
        try:
            response = await context.request(request).response
        except (Error, OSError):
            await asyncio.sleep(AGAIN_S)
            continue
        if response.code.is_successful():
            return ""
        if response.code == aiocoap.BAD_REQUEST:
            return str(response.payload.decode(errors="replace"))
        await asyncio.sleep(response.opt.max_age or AGAIN_S)


async def run(gateway: str, device: str, every_s: float, count: int | None) -> int:
    """Measure and post until stopped, or `count` times; the exit status."""
    context = await aiocoap.Context.create_client_context()
    chance = random.Random(device)  # noqa: S311 - a simulation, not a secret
    uri = f"coap://{gateway}/telemetry/{quote(device, safe='')}"
    energy_kwh, taken, refused = 0.0, 0, 0
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        while count is None or taken + refused < count:
            energy_kwh += chance.uniform(0, 0.01)
            reading = {
                "ts": time.time_ns() // 1_000_000,
                "energy": round(energy_kwh, 3),
                "voltage": round(chance.gauss(230, 1), 1),
            }
            why = await post(context, uri, json.dumps(reading).encode())
            taken, refused = taken + (not why), refused + bool(why)
            if why:
                print(f"{device}: refused: {why}")
            await asyncio.sleep(every_s)
    await context.shutdown()
    print(f"{device}: taken {taken}, refused {refused}")
    return 1 if refused else 0


def main() -> int:
    parser = argparse.ArgumentParser(description="An energy meter that posts over CoAP.")
    parser.add_argument("--gateway", default="127.0.0.1:5683", metavar="HOST:PORT")
    parser.add_argument("--device", default="meter-1", help="the meter's name")
    parser.add_argument("--every-s", type=float, default=5.0, help="seconds between readings")
    parser.add_argument("--count", type=int, help="stop after so many readings")
    given = parser.parse_args()
    return asyncio.run(run(given.gateway, given.device, given.every_s, given.count))


if __name__ == "__main__":
    sys.exit(main())

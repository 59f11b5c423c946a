"""A device that is a CoAP server, as a process: `python -m tests.coap_device PORT BOOT`.

/counter  observable; {"boot": BOOT, "n": 0, 1, 2, …}, a new value every 50 ms, Max-Age 1 s
/static   {"boot": BOOT}, which cannot be observed
/long     {"log": …} in blocks
"""

import asyncio
import json
import sys

from aiocoap import CONTENT, Context, Message
from aiocoap.resource import ObservableResource, Resource, Site

EVERY_S = 0.05


def say(value: object) -> Message:
    return Message(code=CONTENT, payload=json.dumps(value).encode(), content_format=50, max_age=1)


class Counter(ObservableResource):
    def __init__(self, boot: int) -> None:
        super().__init__()
        self.boot, self.n = boot, 0

    async def count(self) -> None:
        while True:
            await asyncio.sleep(EVERY_S)
            self.n += 1
            self.updated_state()

    async def render_get(self, _request: Message) -> Message:
        return say({"boot": self.boot, "n": self.n})


class Fixed(Resource):
    def __init__(self, value: object) -> None:
        super().__init__()
        self.value = value

    async def render_get(self, _request: Message) -> Message:
        return say(self.value)


async def main(port: int, boot: int) -> None:
    site, counter = Site(), Counter(boot)
    site.add_resource(["counter"], counter)
    site.add_resource(["static"], Fixed({"boot": boot}))
    site.add_resource(["long"], Fixed({"log": "x" * 3000}))
    await Context.create_server_context(site, bind=("127.0.0.1", port), transports=["udp6"])
    await counter.count()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), int(sys.argv[2])))

"""The faults of the drill: each does its damage, lasts, and takes back what it can.

To add one: a coroutine here and its place in FAULTS. `Scene` is what a fault can reach; `chance` draws what is
random in it, so that a seed gives the same faults in the same order.
"""

import asyncio
import random
import re
import resource
import shutil
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from ingest.clickhouse.client import Client
from proof.link import Link
from proof.meddler import Meddler
from proof.stack import Stack

KEEPALIVE_S = 5
"""Of the drill's agent and worker: a broker gives them up after one and a half of these."""
HANG_S = (1.0, 10.0)
LAST_S = (2.0, 8.0)
CLOCK_STEPS_S = (-86_400, -3600, -5, 5, 3600)
FILE_BYTES_MAX = 4096
PAGE_BYTES = 4096


@dataclass(slots=True)
class Scene:
    """The stack under test, what stands between gateway and trunk, and who meddles there.

    clock: the file by which libfaketime sets the agent's clock, where it is installed.
    """

    stack: Stack
    link: Link
    meddler: Meddler
    client: Client
    chance: random.Random
    clock: Path | None

    async def last(self) -> None:
        """As long as a fault lasts."""
        await asyncio.sleep(self.chance.uniform(*LAST_S))

    async def hang(self, name: str) -> None:
        """SIGSTOP, for longer than the keepalive or not; then SIGCONT."""
        self.stack.programs[name].signal(signal.SIGSTOP)
        try:
            await asyncio.sleep(self.chance.uniform(*HANG_S))
        finally:
            self.stack.programs[name].signal(signal.SIGCONT)


Fault = Callable[[Scene], Awaitable[None]]


async def kill_agent(scene: Scene) -> None:
    """SIGKILL; the supervisor starts it again, here as below."""
    scene.stack.programs["edge"].kill()


async def tear_spool(scene: Scene) -> None:
    """SIGKILL the agent, and leave half a page at the end of its spool's log, as a power cut does."""
    scene.stack.programs["edge"].kill()
    with (scene.stack.directory / "spool" / "spool.db-wal").open("ab") as wal:
        wal.write(scene.chance.randbytes(scene.chance.randrange(1, 5000)))


async def hang_agent(scene: Scene) -> None:
    """SIGSTOP, SIGCONT."""
    await scene.hang("edge")


async def kill_ingest(scene: Scene) -> None:
    """SIGKILL."""
    scene.stack.programs["ingest"].kill()


async def hang_ingest(scene: Scene) -> None:
    """SIGSTOP, SIGCONT."""
    await scene.hang("ingest")


async def kill_clickhouse(scene: Scene) -> None:
    """SIGKILL."""
    scene.stack.programs["clickhouse"].kill()


async def hang_clickhouse(scene: Scene) -> None:
    """SIGSTOP, SIGCONT: statements take long, answers come late."""
    await scene.hang("clickhouse")


async def kill_trunk_broker(scene: Scene) -> None:
    """SIGKILL; it keeps nothing on disk, so its state is wiped."""
    scene.stack.programs["trunk-broker"].kill()


async def cut_trunk(scene: Scene) -> None:
    """Connections end, new ones are refused."""
    scene.link.is_cut = True
    scene.link.cut()
    try:
        await scene.last()
    finally:
        scene.link.restore()


async def slow_trunk(scene: Scene) -> None:
    """Every piece of data comes late."""
    scene.link.delay_s = scene.chance.choice((0.05, 0.3))
    try:
        await scene.last()
    finally:
        scene.link.restore()


async def swallow_trunk(scene: Scene) -> None:
    """A black hole: nothing passes, and neither end hears of it."""
    scene.link.black_hole()
    try:
        await asyncio.sleep(scene.chance.uniform(*HANG_S))
    finally:
        scene.link.restore()


async def repeat_batches(scene: Scene) -> None:
    """Batches come twice, in another order, and old ones again."""
    await scene.meddler.meddle(scene.chance.randrange(20, 200))


async def set_clock(scene: Scene) -> None:
    """The gateway's clock jumps, and later jumps back."""
    assert scene.clock is not None
    scene.clock.write_text(f"{scene.chance.choice(CLOCK_STEPS_S):+d}\n")
    try:
        await scene.last()
    finally:
        scene.clock.write_text("+0\n")


async def fill_disk(scene: Scene) -> None:
    """No file of the agent can grow (RLIMIT_FSIZE), as on a full disk."""
    pid = scene.stack.programs["edge"].pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, hard))
    try:
        await scene.last()
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


async def refuse_inserts(scene: Scene) -> None:
    """ClickHouse answers TOO_MANY_PARTS."""
    change = "ALTER TABLE fieldline.readings"
    await asyncio.to_thread(scene.client.command, f"{change} MODIFY SETTING parts_to_throw_insert = 1")
    try:
        await scene.last()
    finally:
        await asyncio.to_thread(scene.client.command, f"{change} RESET SETTING parts_to_throw_insert")


async def read_only(scene: Scene) -> None:
    """ClickHouse answers TABLE_IS_READ_ONLY, for the readings or for the ledger."""
    change = f"ALTER TABLE fieldline.{scene.chance.choice(('readings', 'ledger'))}"
    await asyncio.to_thread(scene.client.command, f"{change} MODIFY SETTING table_readonly = 1")
    try:
        await scene.last()
    finally:
        await asyncio.to_thread(scene.client.command, f"{change} RESET SETTING table_readonly")


async def change_password(scene: Scene) -> None:
    """ClickHouse is restarted with a password that ingest does not know, and later without."""
    clickhouse = scene.stack.programs["clickhouse"]
    secret = scene.stack.directory / "password"
    secret.write_text("another\n")
    command = clickhouse.command
    clickhouse.command = (*command, "--password-file", str(secret))
    clickhouse.kill()
    try:
        await scene.last()
    finally:
        clickhouse.command = command
        clickhouse.kill()


async def corrupt_spool(scene: Scene) -> None:
    """While the trunk is cut, the agent stops, and pages that hold commits are overwritten in its spool."""
    scene.link.is_cut = True
    scene.link.cut()
    agent = scene.stack.programs["edge"]
    try:
        await scene.last()
        await agent.stop()
        _overwrite_commits(scene)
        agent.start()
    finally:
        scene.link.restore()


def _overwrite_commits(scene: Scene) -> None:
    """Garbage on up to three of the database's pages on which a commit begins; it begins with its epoch."""
    status = scene.stack.spool_status()
    assert status is not None
    file = scene.stack.directory / "spool" / "spool.db"
    begins = re.compile(re.escape(bytes.fromhex(status.epoch)))
    pages = sorted({found.start() // PAGE_BYTES for found in begins.finditer(file.read_bytes())})
    with file.open("r+b") as database:
        for page in scene.chance.sample(pages, min(len(pages), 3)):
            database.seek(page * PAGE_BYTES)
            database.write(scene.chance.randbytes(PAGE_BYTES))


FAULTS: dict[str, Fault] = {
    "kill agent": kill_agent,
    "tear spool's tail": tear_spool,
    "corrupt spool": corrupt_spool,
    "hang agent": hang_agent,
    "kill ingest": kill_ingest,
    "hang ingest": hang_ingest,
    "kill ClickHouse": kill_clickhouse,
    "hang ClickHouse": hang_clickhouse,
    "kill trunk broker": kill_trunk_broker,
    "cut trunk": cut_trunk,
    "slow trunk": slow_trunk,
    "black hole": swallow_trunk,
    "repeat batches": repeat_batches,
    "set gateway's clock": set_clock,
    "fill disk": fill_disk,
    "refuse inserts": refuse_inserts,
    "read-only table": read_only,
    "wrong password": change_password,
}


def faketime() -> str | None:
    """libfaketime, if it is installed (Debian: faketime)."""
    program = shutil.which("faketime")
    if program is None:
        return None
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    return str(found[0]) if found else None


def faketime_environment(library: str, clock: Path) -> dict[str, str]:
    """For a process whose wall clock follows the file `clock`, e.g. "+3600"; its monotonic clock stays true."""
    clock.write_text("+0\n")
    return {
        "LD_PRELOAD": library,
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "DONT_FAKE_MONOTONIC": "1",
    }

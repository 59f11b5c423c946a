"""The faults of the drill: each does its damage, lasts, and takes back what it can.

To add one: a coroutine here and its place in FAULTS. See proof/scene.py for what it can reach.
"""

import asyncio
import re
import resource
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from proof.scene import HANG_S, Scene

SLOW_S = 0.2
CLOCK_STEPS_S = (-86_400, -3600, -5, 5, 3600)
FILE_BYTES_MAX = 4096
PAGE_BYTES = 4096

Fault = Callable[[Scene], Awaitable[None]]


async def kill_agent(scene: Scene) -> None:
    """SIGKILL; the supervisor starts it again, here as below."""
    scene.program("edge").kill()


async def tear_spool(scene: Scene) -> None:
    """SIGKILL the agent, and leave half a page at the end of its spool's log, as a power cut does."""
    scene.program("edge").kill()
    with (scene.stack.directory / "spool" / "spool.db-wal").open("ab") as wal:
        wal.write(scene.chance.randbytes(scene.chance.randrange(1, 5000)))


async def hang_agent(scene: Scene) -> None:
    """SIGSTOP, SIGCONT."""
    await scene.hang("edge")


async def kill_ingest(scene: Scene) -> None:
    """SIGKILL."""
    scene.program("ingest").kill()


async def hang_ingest(scene: Scene) -> None:
    """SIGSTOP, SIGCONT."""
    await scene.hang("ingest")


async def kill_clickhouse(scene: Scene) -> None:
    """SIGKILL."""
    scene.program("clickhouse").kill()


async def hang_clickhouse(scene: Scene) -> None:
    """SIGSTOP, SIGCONT: statements take long, answers come late."""
    await scene.hang("clickhouse")


async def kill_trunk_broker(scene: Scene) -> None:
    """SIGKILL; it keeps nothing on disk, so its state is wiped."""
    scene.program("trunk-broker").kill()


async def cut_trunk(scene: Scene) -> None:
    """Connections end, new ones are refused."""
    with scene.links.trunk.bad(is_cut=True):
        await scene.last()


async def slow_trunk(scene: Scene) -> None:
    """Every piece of data comes late."""
    with scene.links.trunk.bad(delay_s=scene.chance.choice((0.05, 0.3))):
        await scene.last()


async def swallow_trunk(scene: Scene) -> None:
    """A black hole: nothing passes, and neither end hears of it."""
    with scene.links.trunk.bad(is_black_hole=True):
        await asyncio.sleep(scene.chance.uniform(*HANG_S))


async def cut_device_link(scene: Scene) -> None:
    """Between device broker and agent: connections end, new ones are refused."""
    with scene.links.device.bad(is_cut=True):
        await scene.last()


async def swallow_device_link(scene: Scene) -> None:
    """Between device broker and agent: a black hole."""
    with scene.links.device.bad(is_black_hole=True):
        await asyncio.sleep(scene.chance.uniform(*HANG_S))


async def lose_answers(scene: Scene) -> None:
    """ClickHouse, far away, does what it is told, and ingest does not hear of it before its connection is reset."""
    for _ in range(3):  # which of a commit's statements it meets is up to chance
        with scene.links.clickhouse.bad(delay_s=SLOW_S):
            await scene.moment()
            scene.links.clickhouse.loses_answers = True
            await scene.moment()


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
    pid = scene.program("edge").pid
    _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, hard))
    try:
        await scene.last()
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard, hard))


async def refuse_inserts(scene: Scene) -> None:
    """ClickHouse answers TOO_MANY_PARTS."""
    async with scene.altered("readings", "parts_to_throw_insert"):
        await scene.last()


async def read_only(scene: Scene) -> None:
    """ClickHouse answers TABLE_IS_READ_ONLY, for the readings or for the ledger."""
    async with scene.altered(scene.chance.choice(("readings", "ledger")), "table_readonly"):
        await scene.last()


async def change_password(scene: Scene) -> None:
    """ClickHouse is restarted with a password that ingest does not know, and later without."""
    clickhouse = scene.program("clickhouse")
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
    agent = scene.program("edge")
    with scene.links.trunk.bad(is_cut=True):
        await scene.last()
        await agent.stop()
        _overwrite_commits(scene)
        agent.start()


# Two faults at a time: each finds a bug that no single one does (tests/broken.py).


async def lose_acknowledgements(scene: Scene) -> None:
    """The agent's PUBACKs are lost, and then it is killed: the broker sends again what is in the spool."""
    with scene.links.device.bad(loses_words=True):
        await scene.moment()
        scene.program("edge").kill()


async def recut_batches(scene: Scene) -> None:
    """Batches wait in ingest as the agent is killed: it comes back and cuts the same records differently."""
    async with scene.altered("readings", "parts_to_throw_insert"):
        await scene.moment()
        scene.program("edge").kill()
        await scene.last()


async def kill_waiting_ingest(scene: Scene) -> None:
    """SIGKILL ingest while it tries an insert again and again."""
    async with scene.altered("readings", "parts_to_throw_insert"):
        await scene.moment()
        scene.program("ingest").kill()
        await scene.moment()


async def kill_ingest_in_commit(scene: Scene) -> None:
    """ClickHouse is far away, so a commit takes long, and ingest is killed in one."""
    with scene.links.clickhouse.bad(delay_s=SLOW_S):
        await scene.moment()
        scene.program("ingest").kill()


async def succeed_hanging_ingest(scene: Scene) -> None:
    """SIGSTOP in a slow commit; another worker takes over, and then the first one wakes up.

    Fenced, it ends; the supervisor starts it again and it takes over in its turn.
    """
    stack = scene.stack
    successor = stack.add("successor", stack.programs["ingest"].command, restart=False)
    with scene.links.clickhouse.bad(delay_s=SLOW_S):
        await scene.moment()
        async with scene.hanging("ingest"):
            scene.links.clickhouse.restore()
            successor.start()
            await scene.last()
    await scene.last()
    await successor.stop()


def _overwrite_commits(scene: Scene) -> None:
    """Garbage on up to three of the database's pages on which a commit begins; it begins with its epoch."""
    status = scene.status()
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
    "black hole on trunk": swallow_trunk,
    "cut device link": cut_device_link,
    "black hole at devices": swallow_device_link,
    "repeat batches": repeat_batches,
    "set gateway's clock": set_clock,
    "fill disk": fill_disk,
    "refuse inserts": refuse_inserts,
    "read-only table": read_only,
    "wrong password": change_password,
    "lose ClickHouse's word": lose_answers,
    "lose acks, kill agent": lose_acknowledgements,
    "recut batches": recut_batches,
    "kill waiting ingest": kill_waiting_ingest,
    "kill ingest in commit": kill_ingest_in_commit,
    "succeed hung ingest": succeed_hanging_ingest,
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

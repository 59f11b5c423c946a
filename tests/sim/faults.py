"""The faults of a run: each does its damage at once and, mostly, schedules the end of it.

To add one: a function here and its place in FAULTS.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from tests.sim.clickhouse import ServerError

if TYPE_CHECKING:
    from tests.sim.gateway import Gateway
    from tests.sim.world import World

Fault = Callable[["World"], None]


def kill_agent(world: "World") -> None:
    _kill(world, world.chance.choice(world.gateways))


def kill_agent_after_a_commit(world: "World") -> None:
    """Before, while or after the acknowledgements leave."""
    gateway = world.chance.choice(world.gateways)
    steps = world.chance.randint(0, 3)

    def kill() -> None:
        _kill(world, gateway)

    gateway.disk.when_committed = lambda: world.loop.at_step(world.loop.steps + steps, kill)


def _kill(world: "World", gateway: "Gateway") -> None:
    if gateway.life is not None:
        life = gateway.life
        gateway.end(power_cut=world.chance.random() < 0.7)
        world.drop(life)
        world.later(world.pause_s(), lambda: gateway.start() if gateway.life is None else None)


def kill_ingest(world: "World") -> None:
    ingest = world.chance.choice(world.ingests)
    ingest.end()
    world.later(world.pause_s(), lambda: ingest.start() if ingest.life is None else None)


def hang_ingest(world: "World") -> None:
    """SIGSTOP; perhaps another takes over meanwhile, and then it wakes up."""
    ingest = world.chance.choice(world.ingests)
    life = ingest.life
    if life is None or life.frozen:
        return
    life.frozen = True
    if world.chance.random() < 0.7:
        ingest.life = None
        world.later(world.chance.choice((0.0, 0.5)), lambda: ingest.start() if ingest.life is None else None)
    world.later(world.pause_s(), world.loop.thaw, life)


def hang_agent(world: "World") -> None:
    gateway = world.chance.choice(world.gateways)
    life = gateway.life
    if life is not None and not life.frozen:
        life.frozen = True
        world.later(world.pause_s(), world.loop.thaw, life)


def crash_clickhouse(world: "World") -> None:
    world.server.crash()
    world.later(world.pause_s(), lambda: setattr(world.server, "is_up", True))


def refuse_inserts(world: "World") -> None:
    world.server.refuses = ServerError(world.chance.choice((252, 164, 516)), "not now")
    world.later(world.pause_s(), lambda: setattr(world.server, "refuses", None))


def lose_answers(world: "World") -> None:
    world.server.unreliable = world.chance.choice((0.1, 0.5))
    world.later(world.pause_s(), lambda: setattr(world.server, "unreliable", 0.0))


def wipe_trunk(world: "World") -> None:
    world.network.is_up = False
    world.network.wipe()
    world.later(world.pause_s(), lambda: setattr(world.network, "is_up", True))


def cut_a_connection(world: "World") -> None:
    if world.network.connections:
        world.chance.choice(world.network.connections).cut(world.chance.choice((0.0, 5.0)))


def slow_trunk(world: "World") -> None:
    world.network.slow = world.chance.choice((10.0, 100.0))
    world.later(world.pause_s(), lambda: setattr(world.network, "slow", 1.0))


def repeat_batches(world: "World") -> None:
    world.network.repeats, world.network.old = 0.5, 0.3
    world.later(world.pause_s(), lambda: setattr(world.network, "repeats", 0.0))
    world.later(world.pause_s(), lambda: setattr(world.network, "old", 0.0))


def set_clock(world: "World") -> None:
    clock = world.chance.choice([world.cloud_clock, *(gateway.clock for gateway in world.gateways)])
    clock.offset_ms = world.chance.choice((0, -3_600_000, 3_600_000, -5, 5))


def fill_disk(world: "World") -> None:
    """Rather of one that may then drop its oldest records."""
    gateway = world.chance.choice([g for g in world.gateways if g.may_lose] or world.gateways)
    gateway.disk.free = 0
    world.later(world.pause_s(), lambda: setattr(gateway.disk, "free", 10**12))


def break_disk(world: "World") -> None:
    gateway = world.chance.choice(world.gateways)
    gateway.disk.fails = True
    world.later(world.pause_s(), lambda: setattr(gateway.disk, "fails", False))


FAULTS: tuple[Fault, ...] = (
    kill_agent,
    kill_agent_after_a_commit,
    kill_ingest,
    kill_ingest,
    hang_ingest,
    hang_agent,
    crash_clickhouse,
    refuse_inserts,
    lose_answers,
    wipe_trunk,
    cut_a_connection,
    slow_trunk,
    repeat_batches,
    set_clock,
    fill_disk,
    fill_disk,
    break_disk,
)

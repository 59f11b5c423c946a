"""An event loop without time: it jumps from event to event, and can crash or freeze what runs on it.

Every task and timer belongs to a `Life` (a context variable): one run of one process. A life that was ended
never runs again, not even its `finally` blocks, as after SIGKILL; a frozen one runs later, as after SIGSTOP.
`SimLoop.at_step` acts right after the n-th callback was scheduled, so between any two awaits.

Blocking code runs as a greenlet (`Thread`): where it would block, it gives way to the loop.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet


class StuckError(Exception):
    """Nothing can ever happen any more."""


@dataclass(eq=False)
class Life:
    """One run of one process. What its end held back runs only when the simulation is cleared away."""

    name: str
    ended: bool = False
    frozen: bool = False
    held_back: list[tuple[asyncio.Handle, Callable[..., object], tuple[object, ...]]] = field(default_factory=list)


NOBODY = Life("the world")
LIFE: ContextVar[Life] = ContextVar("life", default=NOBODY)


class SimTask(asyncio.Task[Any]):
    """A task with a hash that is the same in every run: task groups keep tasks in sets."""

    number = 0
    life = NOBODY

    def __hash__(self) -> int:
        return self.number


class SimLoop(asyncio.BaseEventLoop):
    """Virtual time in seconds from 0."""

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._selector = self
        self.steps = 0
        self.tasks: list[SimTask] = []
        self._due: dict[int, list[Callable[[], None]]] = {}
        self.set_task_factory(self._make_task)
        self.set_exception_handler(lambda _loop, _context: None)

    def time(self) -> float:
        return self._now_s

    def select(self, timeout: float | None) -> list[object]:
        """What BaseEventLoop asks its selector: here, time passes."""
        if timeout is None:
            raise StuckError
        self._now_s += max(timeout, 0)
        return []

    def _process_events(self, event_list: list[object]) -> None:
        pass

    def _write_to_self(self) -> None:
        pass

    def _make_task(self, loop: asyncio.AbstractEventLoop, coro: Any, **more: Any) -> SimTask:
        task = SimTask(coro, loop=loop, **more)
        task.number, task.life = len(self.tasks), LIFE.get()
        self.tasks.append(task)
        return task

    def at_step(self, step: int, act: Callable[[], None]) -> None:
        """Call `act` right behind the step-th callback that is scheduled; now if that was the last one."""
        if step == self.steps:
            super().call_soon(act, context=Context())  # nobody's
        else:
            self._due.setdefault(step, []).append(act)

    def call_soon(self, callback: Callable[..., object], *args: Any, context: Context | None = None) -> asyncio.Handle:
        handle = super().call_soon(*self._lived(callback, args, context), context=context)
        handle._args[0].handle = handle
        self.steps += 1
        for act in self._due.pop(self.steps, ()):
            super().call_soon(act, context=Context())  # nobody's
        return handle

    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = super().call_at(when, *self._lived(callback, args, context), context=context)
        handle._args[0].handle = handle
        return handle

    def _lived(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None) -> Any:
        life = LIFE.get() if context is None else context.get(LIFE, NOBODY)
        return _run, _Call(life, callback, args)

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        return executor.submit(func, *args)

    def thaw(self, life: Life) -> None:
        """Let a frozen life go on where it was."""
        life.frozen = False
        held_back, life.held_back = life.held_back, []
        for handle, callback, args in held_back:
            if not handle.cancelled():
                self.call_soon(callback, *args, context=handle._context)


@dataclass(slots=True)
class _Call:
    life: Life
    callback: Callable[..., object]
    args: tuple[Any, ...]
    handle: asyncio.Handle | None = None


def _run(call: _Call) -> None:
    if call.life.frozen or call.life.ended:
        assert call.handle is not None
        call.life.held_back.append((call.handle, call.callback, call.args))
    else:
        call.callback(*call.args)


class Thread:
    """Stands for a ThreadPoolExecutor with one worker."""

    def __init__(self, loop: SimLoop, pause_s: Callable[[], float]) -> None:
        self._loop = loop
        self._pause_s = pause_s
        self._queue: deque[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]]] = deque()
        self._busy = False

    def submit(self, func: Callable[..., Any], *args: Any) -> "asyncio.Future[Any]":
        future = self._loop.create_future()
        self._queue.append((future, func, args))
        if not self._busy:
            self._busy = True
            self._loop.call_later(self._pause_s(), self._next)
        return future

    def _next(self) -> None:
        future, func, args = self._queue.popleft()
        job = greenlet(self._work)
        job.gr_context = copy_context()  # with its life
        _jobs.append(job)
        job.switch(future, func, args)

    def _work(self, future: "asyncio.Future[Any]", func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            result, error = func(*args), None
        except GreenletExit:
            return
        except BaseException as raised:  # noqa: BLE001 - it goes to whoever waits
            result, error = None, raised
        if not future.done():
            future.set_result(result) if error is None else future.set_exception(error)
        if self._queue:
            self._loop.call_later(self._pause_s(), self._next)
        else:
            self._busy = False


_jobs: list[greenlet] = []


def block(loop: SimLoop, seconds: float) -> None:
    """From a Thread's job: sleep."""
    job = getcurrent()
    loop.call_later(seconds, job.switch)
    job.parent.switch()


class Signal:
    """What a job can wait for and the loop sets."""

    def __init__(self, loop: SimLoop) -> None:
        self._loop = loop
        self._job: greenlet | None = None
        self._context_life = LIFE.get()
        self.is_set = False

    def set(self) -> None:
        self.is_set = True
        self._wake()

    def wait(self, seconds: float) -> bool:
        """Until it is set, or so many seconds have passed; whether it is set."""
        if not self.is_set:
            self._job = getcurrent()
            timer = self._loop.call_later(seconds, self._wake)
            self._job.parent.switch()
            timer.cancel()
        return self.is_set

    def _wake(self) -> None:
        job, self._job = self._job, None
        if job is not None:
            token = LIFE.set(self._context_life)
            try:
                self._loop.call_soon(job.switch)
            finally:
                LIFE.reset(token)


def drop_jobs() -> None:
    """End the jobs of lives that were ended."""
    while _jobs:
        job = _jobs.pop()
        if job:
            job.throw(GreenletExit)

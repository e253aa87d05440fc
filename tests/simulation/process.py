"""A simulated process: tasks that can be crashed or paused at any await."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from contextvars import Context, copy_context
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from simulation.loop import OWNER

if TYPE_CHECKING:
    from simulation.world import World

T = TypeVar("T")

RUNNING, PAUSED, CRASHED, EXITED, OVER = "running", "paused", "crashed", "exited", "over"
EPOCH = 1_800_000_000.0
_FEW_TASKS = 256


class Outstanding(Protocol):
    """A call or connection that the end of its process concerns."""

    def owner_crashed(self) -> None: ...

    def owner_exited(self) -> None: ...


class SimProcess:
    """Everything started by `start` or `spawn`, and all tasks and timers that it makes, belong to the process.

    A crashed process simply never runs again: its coroutines stay suspended, so that no `finally`
    of theirs is reached while the simulation lasts.
    """

    def __init__(self, world: World, name: str, incarnation: int) -> None:
        self.world = world
        self.name = name
        self.id = f"{name}.{incarnation}"
        self.rng = random.Random(f"{world.seed}/{self.id}")
        self.clock = SimClock(self)
        self.state = RUNNING
        self.error: BaseException | None = None
        """What ended `main`, None after a clean return or a crash."""
        self.frozen = False
        self.ended = asyncio.Event()
        self.outstanding: dict[int, Outstanding] = {}
        self._held: list[asyncio.Handle] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._many_tasks = _FEW_TASKS

    @property
    def dead(self) -> bool:
        return self.state in (CRASHED, EXITED, OVER)

    # ------------------------------------------------------------ what the test does

    def start(self, main: Coroutine[Any, Any, object]) -> None:
        """Run `main` as the process: when it returns or raises, the process exits."""
        self.spawn(main, name=self.id).add_done_callback(self._main_done)

    def spawn(self, coro: Coroutine[Any, Any, T], *, name: str | None = None) -> asyncio.Task[T]:
        return self.world.loop.create_task(coro, name=name, context=self.context())

    def crash(self) -> None:
        """As by SIGKILL: nothing of the process has any effect from now on."""
        if not self.dead:
            self._end(CRASHED)
            for thing in list(self.outstanding.values()):
                thing.owner_crashed()

    def exit(self, error: BaseException | None = None) -> None:
        """As by `os._exit`: what it sent is on its way, all else ends."""
        if not self.dead:
            self.error = error
            self._end(EXITED, repr(error) if error else "")
            for thing in list(self.outstanding.values()):
                thing.owner_exited()

    def pause(self, seconds: float | None = None) -> None:
        """As by SIGSTOP, until `resume`, which comes by itself after `seconds`."""
        if self.state == RUNNING:
            self.state, self.frozen = PAUSED, True
            self.world.note(self, PAUSED, f"{seconds or ''}")
            if seconds is not None:
                self.world.later(seconds, self.resume)

    def resume(self) -> None:
        if self.state == PAUSED:
            self.state, self.frozen = RUNNING, False
            self.world.note(self, "resumed")
            held, self._held = self._held, []
            self.world.loop.resume(held)

    # ------------------------------------------------------------ what the loop and the ports do

    def context(self) -> Context:
        """A context whose callbacks belong to the process."""
        context = copy_context()
        context.run(OWNER.set, self)
        return context

    def hold(self, handle: asyncio.Handle) -> None:
        self._held.append(handle)

    def adopt(self, task: asyncio.Task[Any]) -> None:
        self._tasks.append(task)
        if len(self._tasks) > self._many_tasks:
            self._tasks = [task for task in self._tasks if not task.done()]
            self._many_tasks = 2 * len(self._tasks) + _FEW_TASKS

    async def checkpoint(self) -> None:
        """Return once the process may run; never in a dead one."""
        if self.dead:
            await asyncio.get_running_loop().create_future()
        if self.frozen:
            await asyncio.sleep(0)

    def bury(self) -> None:
        """Unwind what is left, once the loop is closed and nothing can have an effect."""
        if not self.dead:
            self.state, self.frozen = OVER, True
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                _unwind(task.get_coro())
        self._tasks.clear()
        self._held.clear()

    def _end(self, state: str, detail: str = "") -> None:
        self.state, self.frozen = state, True
        self.world.note(self, state, detail)
        self.ended.set()

    def _main_done(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self.exit(asyncio.CancelledError())
        else:
            self.exit(task.exception())


class SimClock:
    """The clocks of one process. The wall clock can step; CLOCK_BOOTTIME never does, and counts through pauses."""

    def __init__(self, process: SimProcess) -> None:
        self._loop = process.world.loop
        self._booted = process.rng.uniform(100.0, 1e6)
        self._step = 0.0

    def now(self) -> float:
        return EPOCH + self._loop.time() + self._step

    def mono(self) -> float:
        return self._booted + self._loop.time()

    def step(self, seconds: float) -> None:
        """Move the wall clock, as an administrator or NTP would."""
        self._step += seconds

    def correct(self) -> None:
        """Undo all steps."""
        self._step = 0.0


def _unwind(coro: Any) -> None:
    """Close a coroutine, however often it awaits in its `finally` clauses."""
    for _ in range(10):
        try:
            coro.close()
            return
        except BaseException:
            continue

"""An asyncio event loop on virtual time whose order of ready callbacks is drawn from a seed.

Time stands still while anything is ready and jumps to the next timer otherwise, so
every await is a point where any other task may run. There are no sockets and no threads.
"""

from __future__ import annotations

import asyncio
import heapq
import random
import sys
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from typing import Any, Protocol, TypeVar

T = TypeVar("T")

STEPS_WITHOUT_TIME = 200_000
"""So many callbacks at one instant are taken for a loop that never ends."""


class Owner(Protocol):
    """The simulated process that a callback belongs to, found in the callback's context."""

    frozen: bool

    @property
    def dead(self) -> bool: ...

    def hold(self, handle: asyncio.Handle) -> None:
        """Keep a callback that fell due while frozen."""
        ...

    def adopt(self, task: asyncio.Task[Any]) -> None: ...

    def exit(self, error: BaseException | None) -> None: ...


OWNER: ContextVar[Owner | None] = ContextVar("OWNER", default=None)


class Deadlock(Exception):
    """The main task waits for what can never happen, or does not within the horizon."""


class SimTask(asyncio.Task[T]):
    """A task whose hash is its number, so that sets of tasks iterate alike in every run."""

    def __init__(self, serial: int, owner: Owner | None, coro: Coroutine[Any, Any, T], **options: Any) -> None:
        self.serial = serial
        self.owner = owner
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self.serial


class SimLoop(asyncio.AbstractEventLoop):
    def __init__(self, rng: random.Random, horizon: float = float("inf")) -> None:
        self._random = rng.random
        self._horizon = horizon
        self._now = 0.0
        self._ready: list[asyncio.Handle] = []
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._serial = 0
        self._steps = 0
        self._running = False
        self._closed = False
        self._failure: BaseException | None = None
        self.outside = copy_context()
        """The context of what belongs to no process: the stores, the network, the test."""
        self.complaints: list[str] = []
        """What the loop's exception handler was told besides failed callbacks."""

    # ------------------------------------------------------------ running

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run until `main` is done. Raises `Deadlock`, and whatever a bare callback raised."""
        task = self.create_task(main, name="main", context=self.outside)
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(finalizer=self._finish_generator)
        asyncio._set_running_loop(self)
        self._running = True
        try:
            while not task.done():
                self._step()
                if self._failure is not None:
                    raise self._failure
            return task.result()
        finally:
            self._running = False
            asyncio._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _step(self) -> None:
        ready = self._ready
        if not ready:
            self._jump()
        chosen = int(self._random() * len(ready)) if len(ready) > 1 else 0
        ready[chosen], ready[-1] = ready[-1], ready[chosen]
        handle = ready.pop()
        if handle.cancelled():
            return
        self._count_step()
        owner = handle._context.get(OWNER)  # type: ignore[attr-defined]
        if owner is None:
            handle._run()
        elif owner.frozen:
            owner.hold(handle)
        else:
            self._run_owned(owner, handle)

    def _run_owned(self, owner: Owner, handle: asyncio.Handle) -> None:
        try:
            handle._run()
        except SystemExit as error:
            owner.exit(error)

    def _count_step(self) -> None:
        self._steps += 1
        if self._steps > STEPS_WITHOUT_TIME:
            raise Deadlock(self._report(f"{STEPS_WITHOUT_TIME} steps without time passing"))

    def _jump(self) -> None:
        """Move to the next instant at which a timer falls due, with all timers of that instant."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
        if not timers:
            raise Deadlock(self._report("nothing can ever happen"))
        if timers[0][0] > self._horizon:
            raise Deadlock(self._report(f"not done by {self._horizon}"))
        if timers[0][0] > self._now:
            self._now = timers[0][0]
            self._steps = 0
        while timers and timers[0][0] <= self._now:
            self._ready.append(heapq.heappop(timers)[2])

    def _report(self, what: str) -> str:
        waiting = sorted((task for task in asyncio.all_tasks(self) if isinstance(task, SimTask)), key=hash)
        waiting = [task for task in waiting if task.owner is None or not task.owner.dead]
        lines = [f"{task.get_name()}: {_where(task)}" for task in waiting]
        return "\n  ".join([f"{what}, at {self._now:.3f}; waiting are", *lines])

    def resume(self, handles: list[asyncio.Handle]) -> None:
        """Make held callbacks ready."""
        self._ready += handles

    # ------------------------------------------------------------ the interface that asyncio uses

    def time(self) -> float:
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._closed:
            self._ready.append(handle)
        return handle

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        if not self._closed:
            self._serial += 1
            heapq.heappush(self._timers, (when, self._serial, handle))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Cancelled timers are passed over when they come to the front."""

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(  # type: ignore[override]
        self, coro: Coroutine[Any, Any, T], *, name: str | None = None, context: Context | None = None
    ) -> asyncio.Task[T]:
        self._serial += 1
        name = name or f"{getattr(coro, '__qualname__', 'task')}#{self._serial}"
        owner = OWNER.get() if context is None else context.get(OWNER)
        task = SimTask(self._serial, owner, coro, loop=self, name=name, context=context)
        if owner is not None:
            owner.adopt(task)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return self._running

    def is_closed(self) -> bool:
        return self._closed

    def close(self) -> None:
        """From now on nothing is scheduled, silently: what is left of the tasks may unwind."""
        self._closed = True
        self._ready.clear()
        self._timers.clear()

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        if "handle" in context and error is not None:
            self._failure = error
        else:
            self.complaints.append(f"{context['message']}: {error!r}")

    def run_in_executor(  # type: ignore[override]
        self, executor: Any, func: Callable[..., T], *args: Any
    ) -> asyncio.Future[T]:
        raise RuntimeError(f"no threads in the simulation: {func!r}")

    def _finish_generator(self, generator: AsyncGenerator[Any, Any]) -> None:
        if not self._closed:
            self.create_task(generator.aclose())


def _where(task: asyncio.Task[Any]) -> str:
    """The chain of coroutines that a task waits in."""
    places: list[str] = []
    coro: Any = task.get_coro()
    while coro is not None:
        frame = getattr(coro, "cr_frame", None)
        if frame is not None:
            places.append(f"{coro.__qualname__}:{frame.f_lineno}")
        coro = getattr(coro, "cr_await", None)
    return " > ".join(places)

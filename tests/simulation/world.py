"""One simulated world: its processes, its calls in flight, its trace, and hooks on what happens in it."""

from __future__ import annotations

import hashlib
import random
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import structlog
from msgspec import Struct
from simulation.faults import CALM, FAILED, LATE, LOST, OK, Faults
from simulation.loop import OWNER, SimLoop
from simulation.process import SimProcess

T = TypeVar("T")

BEFORE, LANDED, REPLIED = "before", "landed", "replied"


class Call:
    """One thing that a process asked of a store or an MX, as hooks and audits see it."""

    def __init__(
        self, world: World, process: SimProcess, name: str, key: str, args: tuple[Any, ...], port: Any
    ) -> None:
        self.world = world
        self.process = process
        self.name = name
        """`state.put_if`, `queue.ack`, `blobs.put`, `mx.dot` ..."""
        self.key = key
        """`partition/sort`, queue name, blob key, recipient ..."""
        self.args = args
        self.port = port
        """The wrapper or connection that it came through."""
        self.begun = world.loop.time()
        self.landed: float | None = None
        """When it took effect, if it did."""
        self.result: Any = None
        self.fate = OK
        self.late_by = 0.0
        self.directed = False
        """A hook decided its fate: the crash of its process does not change it."""

    def direct(self, fate: str, late_by: float = 0.0) -> None:
        self.fate, self.late_by, self.directed = fate, late_by, True

    def __repr__(self) -> str:
        return f"<{self.process.id} {self.name} {self.key}>"


class Point(Struct, frozen=True):
    """Where a hook takes hold: see `before`, `landed`, `replied`."""

    moment: str
    name: str
    key: str
    nth: int
    where: Callable[[Call], bool] | None

    def matches(self, moment: str, call: Call) -> bool:
        return (
            moment == self.moment
            and call.name == self.name
            and call.key.startswith(self.key)
            and (self.where is None or self.where(call))
        )


def before(name: str, key: str = "", nth: int = 1, where: Callable[[Call], bool] | None = None) -> Point:
    """The `nth` matching call, before it leaves the process. `key` is a prefix."""
    return Point(BEFORE, name, key, nth, where)


def landed(name: str, key: str = "", nth: int = 1, where: Callable[[Call], bool] | None = None) -> Point:
    """The `nth` matching call, when it has taken effect and before its reply is read; `call.result` is known."""
    return Point(LANDED, name, key, nth, where)


def replied(name: str, key: str = "", nth: int = 1, where: Callable[[Call], bool] | None = None) -> Point:
    """The `nth` matching call, when its good reply has reached the process."""
    return Point(REPLIED, name, key, nth, where)


Action = Callable[[Call], object]


class Hook:
    def __init__(self, process: str, point: Point, actions: tuple[Action, ...]) -> None:
        self._process = process
        self._point = point
        self._actions = actions
        self._seen = 0

    @property
    def fired(self) -> bool:
        """Whether it took hold: a directed scenario asserts this at its end."""
        return self._seen >= self._point.nth

    def see(self, moment: str, call: Call) -> None:
        if self.fired or call.process.name != self._process or not self._point.matches(moment, call):
            return
        self._seen += 1
        if self._seen == self._point.nth:
            for action in self._actions:
                action(call)


class World:
    """`horizon` is the virtual second by which the main task must be done."""

    def __init__(self, seed: int, faults: Faults = CALM, horizon: float = float("inf")) -> None:
        self.seed = seed
        self.rng = random.Random(f"{seed}/world")
        """Draws faults and delays, and whatever the scenario wants to draw."""
        self.loop = SimLoop(random.Random(f"{seed}/schedule"), horizon)  # type: ignore[abstract]
        self.faults = faults
        self.processes: list[SimProcess] = []
        self.calls: list[Call] = []
        """Every write to the state table that was carried out and every MAIL and final dot at an MX, in order."""
        self.trace: list[tuple[float, str, str, str]] = []
        """(virtual time, process, what, detail)"""
        self.hooks: list[Hook] = []
        self._incarnations: dict[str, int] = {}
        self._throttled: dict[tuple[str, str], float] = {}

    # ------------------------------------------------------------ running

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        """Run a whole simulation; afterwards nothing of it is left running."""
        with self._logs():
            try:
                return self.loop.run(main)
            finally:
                self.loop.close()
                for process in self.processes:
                    process.bury()

    def process(self, name: str) -> SimProcess:
        """A new process; one made with the name of an earlier one is its next incarnation."""
        self._incarnations[name] = self._incarnations.get(name, 0) + 1
        process = SimProcess(self, name, self._incarnations[name])
        self.processes.append(process)
        return process

    def later(self, delay: float, callback: Callable[..., object], *args: Any) -> None:
        """Call from outside of every process."""
        self.loop.call_later(delay, callback, *args, context=self.loop.outside)

    def aside(self, coro: Coroutine[Any, Any, object]) -> None:
        """Run what the outside world does, whatever becomes of the process that caused it."""
        self.loop.create_task(coro, context=self.loop.outside)

    def heal(self) -> None:
        """No more faults of chance; writes that are late already still land."""
        self.faults = CALM
        self._throttled.clear()

    # ------------------------------------------------------------ hooks

    def on(self, process: str | SimProcess, point: Point, *actions: Action) -> Hook:
        """Do `actions` once, at `point`, in whichever incarnation of `process` gets there."""
        name = process if isinstance(process, str) else process.name
        hook = Hook(name, point, actions)
        self.hooks.append(hook)
        return hook

    def fire(self, moment: str, call: Call) -> None:
        for hook in self.hooks:
            hook.see(moment, call)

    # ------------------------------------------------------------ chance

    def between(self, bounds: tuple[float, float]) -> float:
        return bounds[0] + (bounds[1] - bounds[0]) * self.rng.random()

    def chance(self, rate: float) -> bool:
        return rate > 0 and self.rng.random() < rate

    def latency(self) -> float:
        faults = self.faults
        extra = self.between(faults.slow_by) if self.chance(faults.slow) else 0.0
        return self.between(faults.latency) + extra

    def throttles(self, process: SimProcess, port: str) -> bool:
        """Whether the store turns this call away, as it does all of a process for a while."""
        now = self.loop.time()
        if self._throttled.get((process.id, port), 0.0) > now:
            return True
        if self.chance(self.faults.throttled):
            self.throttle(process, port, self.between(self.faults.throttled_for))
            return True
        return False

    def throttle(self, process: SimProcess, port: str, seconds: float) -> None:
        """The store (`state`, `queue`, `blobs`) turns away all calls of the process for a while."""
        self._throttled[process.id, port] = self.loop.time() + seconds

    # ------------------------------------------------------------ trace

    def note(self, process: SimProcess | None, what: str, detail: str = "") -> None:
        self.trace.append((self.loop.time(), process.id if process else "-", what, detail))

    def digest(self) -> str:
        """Equal for equal runs."""
        return hashlib.sha256("\n".join(self.lines()).encode()).hexdigest()

    def lines(self) -> Iterator[str]:
        for at, process, what, detail in self.trace:
            yield f"{at:12.6f} {process:<12} {what:<22} {detail}"

    @contextmanager
    def _logs(self) -> Iterator[None]:
        """Log events of the code under test go to the trace."""
        kept = structlog.get_config()
        structlog.configure(processors=[self._note_event], cache_logger_on_first_use=False)
        try:
            yield
        finally:
            structlog.configure(**kept)

    def _note_event(self, logger: Any, level: str, event: Any) -> Any:
        if self.loop.is_closed():
            raise structlog.DropEvent
        name = event.pop("event")
        if event.get("exc_info") is True:
            event["exc_info"] = repr(sys.exc_info()[1])
        owner = OWNER.get()
        process = owner if isinstance(owner, SimProcess) else None
        self.note(process, f"log {level}", f"{name} {event}")
        raise structlog.DropEvent


# ---------------------------------------------------------------- actions


def crash(call: Call) -> None:
    """The calling process dies here."""
    call.process.crash()


def pause(seconds: float) -> Action:
    return lambda call: call.process.pause(seconds)


def fail(call: Call) -> None:
    """`Unavailable`, without effect. At `before`."""
    call.direct(FAILED)


def lose_reply(call: Call) -> None:
    """Takes effect, and the process is told `Unavailable`. At `before`."""
    call.direct(LOST)


def land(call: Call) -> None:
    """Takes effect whatever chance says, also if `crash` comes after it in the same hook. At `before`."""
    call.direct(OK)


def land_late(seconds: float) -> Action:
    """`Unavailable` now; the effect, with its condition evaluated, comes after `seconds`. At `before`.

    With `crash` after it in the same hook, a dead process' write lands late.
    """
    return lambda call: call.direct(LATE, seconds)


def do(action: Callable[[], object]) -> Action:
    """Anything else, such as the crash or pause of another process."""
    return lambda call: action()

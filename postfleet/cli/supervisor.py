"""Runs the platform's processes: starts them, says when one dies, starts it again, ends with them."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from msgspec import Struct

from postfleet.cli.blockers import blockers

RESTART_FIRST = 0.2
RESTART_LONGEST = 5.0
STEADY = 10.0
"""A process that ran for so long is started again without growing delay, seconds."""
LOOK_EVERY = 3.0
"""A process that blocks the others at two looks in a row is killed, seconds."""
CONFIGURATION_ERROR = 2
_PR_SET_PDEATHSIG = 1
_prctl = ctypes.CDLL(None).prctl


class Service(Struct, frozen=True):
    """One process. `rank` orders the stop: low ranks first."""

    name: str
    module: str
    arguments: tuple[str, ...]
    rank: int
    grace: float = 15.0
    """Seconds from SIGTERM to SIGKILL; 0 is SIGKILL at once."""
    vital: bool = False
    """What it held is gone when it ends, and the platform cannot go on."""
    takes_over: bool = False
    """A second process takes over from the first, which then ends by itself."""


class StartFailed(Exception):
    """A service cannot run as configured; the text says why."""


def die_with_parent(how: signal.Signals) -> Callable[[], None]:
    """For the child to call before it starts: to be sent a signal when this process dies, however that comes."""
    parent = os.getpid()

    def prepare() -> None:
        _prctl(_PR_SET_PDEATHSIG, how)
        if os.getppid() != parent:
            os._exit(1)

    return prepare


class Supervisor:
    def __init__(self, *, logs: Path, run: Path, say: Callable[[str], None]) -> None:
        self._services: list[Service] = []
        self._logs = logs
        self._run = run
        self._say = say
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._keepers: dict[str, asyncio.Task[None]] = {}
        self._replaced: dict[str, list[asyncio.subprocess.Process]] = {}
        self._watch: asyncio.Task[None] | None = None
        self._stopping = False
        self.broken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Fails with `StartFailed` when a service cannot run."""

    async def start(self, services: Sequence[Service]) -> None:
        """In their order, after those that run already."""
        for directory in (self._logs, self._run):
            directory.mkdir(parents=True, exist_ok=True)
        for service in services:
            self._services.append(service)
            await self._spawn(service)
            self._keepers[service.name] = asyncio.create_task(self._keep(service))
        self._watch = self._watch or asyncio.create_task(self._end_blockers())

    async def replace(self) -> None:
        """Start another process of each service that takes over from the one that runs."""
        for service in self._services:
            if service.takes_over and not self._stopping:
                self._keepers[service.name].cancel()
                self._replaced.setdefault(service.name, []).append(self._processes[service.name])
                await self._spawn(service)
                self._keepers[service.name] = asyncio.create_task(self._keep(service))
                self._say(f"{service.name} replaced")

    async def _spawn(self, service: Service) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
        with (self._logs / f"{service.name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                service.module,
                *service.arguments,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
                preexec_fn=die_with_parent(signal.SIGKILL),
            )
        self._processes[service.name] = process
        (self._run / f"{service.name}.pid").write_text(f"{process.pid}\n")

    async def _keep(self, service: Service) -> None:
        loop = asyncio.get_running_loop()
        delay = RESTART_FIRST
        while True:
            started = loop.time()
            code = await self._processes[service.name].wait()
            if self._stopping:
                return
            if code == CONFIGURATION_ERROR or service.vital:
                self._break(service, code)
                return
            if loop.time() - started > STEADY:
                delay = RESTART_FIRST
            self._say(f"{service.name} {_how_it_ended(code)}; started again")
            await asyncio.sleep(delay)
            delay = min(delay * 2, RESTART_LONGEST)
            await self._spawn(service)

    async def _end_blockers(self) -> None:
        """A stopped process that holds a lock of the store would stop the whole platform; killing one loses nothing."""
        seen: set[int] = set()
        while True:
            await asyncio.sleep(LOOK_EVERY)
            running = {process.pid: name for name, process in self._processes.items() if process.returncode is None}
            found = blockers(running)
            for pid in found & seen:
                self._say(f"{running[pid]} is stopped and holds a lock of the store; killed")
                os.kill(pid, signal.SIGKILL)
            seen = found

    def _break(self, service: Service, code: int) -> None:
        log = self._logs / f"{service.name}.log"
        lines = log.read_text(errors="replace").splitlines()
        why = lines[-1] if lines and code == CONFIGURATION_ERROR else f"{service.name} {_how_it_ended(code)}; see {log}"
        if not self.broken.done():
            self.broken.set_exception(StartFailed(why))

    @property
    def started(self) -> bool:
        return bool(self._services)

    async def stop(self) -> None:
        """By rank: those that take mail in first, those that others need last."""
        self._stopping = True
        for rank in sorted({service.rank for service in self._services}):
            await asyncio.gather(*(self._stop_one(each) for each in self._services if each.rank == rank))
        tasks = [*self._keepers.values(), *([self._watch] if self._watch else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _stop_one(self, service: Service) -> None:
        processes = [*self._replaced.get(service.name, []), self._processes.get(service.name)]
        running = [process for process in processes if process is not None and process.returncode is None]
        await asyncio.gather(*(self._end(service, process) for process in running))
        (self._run / f"{service.name}.pid").unlink(missing_ok=True)

    async def _end(self, service: Service, process: asyncio.subprocess.Process) -> None:
        with contextlib.suppress(ProcessLookupError):
            process.terminate() if service.grace else process.kill()
        try:
            await asyncio.wait_for(process.wait(), service.grace or None)
        except TimeoutError:
            self._say(f"{service.name} did not stop within {service.grace:.0f} s; killed")
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()


def _how_it_ended(code: int) -> str:
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

"""What one seed runs: the platform, a load, faults, healing, and the audit of what became of the mail."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextlib import ExitStack

from msgspec import Struct
from msgspec.structs import replace
from simulation.breaks import BREAKS
from simulation.client import Client
from simulation.faults import ROUGH
from simulation.findings import violations
from simulation.loop import Deadlock
from simulation.mx import Behaviour
from simulation.process import SimProcess
from simulation.services import SETTINGS, UNKNOWN_DOMAIN, Platform, small_sizes
from simulation.world import World, before, crash, landed, pause, replied

HORIZON = 4 * 3600.0
TROUBLE = 90.0
"""Seconds of load and faults."""
LOAD = 40.0
DOMAINS = ("a.test", "b.test", "c.test")
ROUTERS = ("router-1", "router-2")
WORKERS = ("worker-1", "worker-2", "worker-3")
WINDOWS = {
    "snapshot_whole": 3,
    "send_window": 0.05,
    "ack_window": 0.5,
    "park_window": 0.5,
    "journal_window_busy": 0.1,
    "events_window_busy": 1.0,
}
"""Writes are gathered as on AWS."""
MOMENTS = (before, landed, replied)
CRITICAL = {
    "ingest": [
        ("blobs.append", "mail/"),
        ("queue.send", "units"),
        ("state.put_if", "key/"),
        ("blobs.put_if_absent", ""),
    ],
    "reporting": [("blobs.put", "events/log/"), ("blobs.delete", "events/"), ("queue.ack", "events")],
    "router": [
        ("state.put_if_absent", "plan/"),
        ("queue.send", "tail-"),
        ("queue.send", "units"),
        ("state.put_if_absent", "due/"),
        ("state.delete_if", "due/"),
        ("blobs.put", "events/"),
        ("queue.ack", "units"),
    ],
    "worker": [
        ("state.put_if_absent", "claim/"),
        ("state.put_if", "claim/"),
        ("mx.dot", ""),
        ("mx.dot", ""),
        ("state.put_if_absent", "journal/"),
        ("state.put_if_absent", "journal/"),
        ("state.put_if", "lease/"),
        ("queue.send", "units"),
        ("state.put_if_absent", "due/"),
        ("blobs.put", "events/"),
        ("queue.ack", "tail-"),
        ("queue.release", "tail-"),
    ],
}
"""Calls around which the death of their process, or a pause of it, matters most."""


class Report(Struct):
    seed: int
    violations: list[str]
    world: World


def run_seed(seed: int, breaks: Collection[str] = ()) -> Report:
    """Deterministic: equal seeds and breaks give equal traces."""
    world = World(seed, ROUGH, HORIZON)
    with ExitStack() as stack:
        stack.enter_context(small_sizes())
        for name in breaks:
            stack.enter_context(BREAKS[name]())
        try:
            found = world.run(_Life(world).live())
        except Deadlock as error:
            found = [f"not drained: {error}"]
    return Report(seed, found, world)


class _Life:
    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = world.rng
        lifetime = self._rng.choice([90.0, 600.0, 86400.0, 86400.0])
        settings = replace(SETTINGS, message_lifetime=lifetime, **self._rng.choice([{}, WINDOWS]))
        self._platform = Platform(world, settings=settings)
        self._platform.mx.patience = self._rng.choice([2.0, float("inf")])
        self._client = Client(self._platform)

    async def live(self) -> list[str]:
        platform = self._platform
        await platform.furnish()
        platform.keep("ingest", *ROUTERS, *WORKERS)
        if self._rng.random() < 0.3:
            platform.keep("reporting")
        for _ in range(self._rng.randint(1, 8)):
            self._lay_trap()
        await asyncio.gather(
            *(self._hand_over(number) for number in range(self._rng.randint(4, 10))),
            *(self._befall() for _ in range(self._rng.randint(2, 8))),
        )
        await self._heal()
        await platform.drain()
        return await violations(platform, self._client)

    # ------------------------------------------------------------ load

    async def _hand_over(self, number: int) -> None:
        rng = self._rng
        recipients = [self._recipient(f"r{number}-{n}") for n in range(rng.choice([1, 1, 2, 3, 4, 7]))]
        tenant, keyed = rng.randint(1, 3), rng.random() < 0.3
        await asyncio.sleep(rng.uniform(0.0, LOAD))
        if keyed:
            await self._client.send_keyed(tenant, f"key-{number}", recipients)
        else:
            await self._client.send(tenant, recipients)

    def _recipient(self, name: str) -> str:
        rng = self._rng
        address = f"{name}@{rng.choice(DOMAINS) if rng.random() < 0.97 else UNKNOWN_DOMAIN}"
        if rng.random() < 0.4:
            self._platform.mx.behaviours[address] = rng.choice(
                [
                    Behaviour(bounce=True, at_dot=rng.random() < 0.5),
                    Behaviour(defer=rng.randint(1, 3), at_dot=rng.random() < 0.5),
                    Behaviour(block=1, at_dot=rng.random() < 0.5),
                    Behaviour(cut=1),
                    Behaviour(slow=rng.uniform(0.5, 30.0)),
                ]
            )
        return address

    # ------------------------------------------------------------ trouble

    def _lay_trap(self) -> None:
        """At one of its critical calls a process dies or stands still."""
        rng = self._rng
        process = rng.choice(["ingest", "reporting", *ROUTERS, *WORKERS, *WORKERS])
        name, key = rng.choice(CRITICAL[process.partition("-")[0]])
        point = rng.choice(MOMENTS)(name, key, nth=rng.randint(1, 6))
        self._world.on(process, point, rng.choice([crash, crash, pause(rng.uniform(10.0, 45.0))]))

    async def _befall(self) -> None:
        rng = self._rng
        befall = rng.choice(
            [
                *(self._crash, self._crash, self._pause, self._pause, self._stop, self._step),
                *(self._kill_binding, self._suspend, self._block_host),
            ]
        )
        await asyncio.sleep(rng.uniform(0.0, TROUBLE))
        await befall()

    async def _crash(self) -> None:
        self._any("ingest", *ROUTERS, *WORKERS, *WORKERS).crash()

    async def _pause(self) -> None:
        self._any(*ROUTERS, *WORKERS, *WORKERS).pause(self._rng.uniform(1.0, 45.0))

    async def _stop(self) -> None:
        worker = self._platform.workers.get(self._rng.choice(WORKERS))
        if worker is not None:
            worker.stop()

    async def _step(self) -> None:
        self._any(*ROUTERS, *WORKERS).clock.step(self._rng.choice([-3600.0, -60.0, 5.0, 60.0, 600.0]))

    async def _kill_binding(self) -> None:
        name = self._rng.choice(["b1", "b2"])
        await self._platform.set_binding(name, alive=False, proxy=self._rng.choice(["", None]))
        await asyncio.sleep(self._rng.uniform(5.0, 60.0))
        await self._platform.set_binding(name)

    async def _suspend(self) -> None:
        name, domain = self._rng.choice(["b1", "b2"]), self._rng.choice(DOMAINS)
        await self._platform.suspend(name, domain, self._rng.uniform(5.0, 60.0))

    async def _block_host(self) -> None:
        host = self._rng.choice(["proxy-b1", "proxy-b2"])
        self._platform.mx.down.add(host)
        await asyncio.sleep(self._rng.uniform(5.0, 60.0))
        self._platform.mx.down.discard(host)

    def _any(self, *names: str) -> SimProcess:
        return self._platform.processes[self._rng.choice(names)]

    # ------------------------------------------------------------ the end

    async def _heal(self) -> None:
        self._world.heal()
        for process in self._platform.processes.values():
            process.resume()
            process.clock.correct()
        await self._platform.furnish()

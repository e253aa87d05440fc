"""The platform's real services as simulated processes, wired as their entrypoints wire them."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from simulation.mx import Behaviour, SimMx
from simulation.net import SimNetwork
from simulation.ports import SimBackends, shared_stores
from simulation.process import SimProcess
from simulation.world import World

import mta_worker.service
import router.service
from mta_worker.contents import Contents
from mta_worker.order import OrderRunner
from mta_worker.postman import Postman
from postfleet.accept import Acceptor
from postfleet.claim import Claims
from postfleet.content import return_path
from postfleet.directory import BINDINGS, POOLS, SUSPENSIONS, Binding, Directory, Pool, Suspension, store
from postfleet.dns.answers import NoDomain, TempFail
from postfleet.dns.site_resolver import NoAddress, Sites, Target
from postfleet.dns.sites import Site, SiteAnswer
from postfleet.events import EVENTS, EventWriter
from postfleet.journal import Journal
from postfleet.lease import LeaseKeeper
from postfleet.park import Parks
from postfleet.ports import Backends
from postfleet.providers import Profile
from postfleet.settings import Settings
from reporting.service import Reporting

SETTINGS = Settings(snapshot_refresh=20.0, sweep_every=20.0, retry_first=15.0, worker_orders=6)
LANES = ("tail-0", "tail-1")
UNKNOWN_DOMAIN = "none.test"
KEY = bytes(32)
LATE = 45.0
"""After so many seconds without trouble, every write has landed."""
SMALL = {
    "postfleet.park.MAX_DELAY": 15.0,
    "postfleet.layout.PACK_MESSAGES": 4,
    "router.plan.ORDER_MESSAGES": 3,
    "router.release.ORDER_MESSAGES": 4,
}
"""Sizes at which a handful of messages is cut into pages, Orders and due rows."""


@contextmanager
def small_sizes() -> Iterator[None]:
    with ExitStack() as stack:
        for target, size in SMALL.items():
            stack.enter_context(patch(target, size))
        yield


def message_of(sender: str) -> str | None:
    """The message id that a return path names."""
    found = return_path.decode(KEY, sender)
    return f"{found.transmission}.{found.index}" if found else None


def lane_of(domain: str) -> str:
    return LANES[zlib.crc32(domain.encode()) % len(LANES)]


class SimSites:
    """Every domain is a site with one MX host; DNS fails now and then, as faults do."""

    def __init__(self, process: SimProcess, connections: int) -> None:
        self._process = process
        self._profile = Profile(name="simulated", connections=connections)
        self._known: dict[str, Site] = {}

    async def site_of(self, domain: str) -> SiteAnswer:
        world = self._process.world
        await asyncio.sleep(world.latency())
        if domain == UNKNOWN_DOMAIN:
            return NoDomain("no such domain")
        if world.chance(world.faults.refused):
            return TempFail("simulated: no nameserver answered")
        self._known[domain] = Site(domain, domain, lane_of(domain), "", ((f"mx.{domain}",),), self._profile)
        return self._known[domain]

    def cached_site_of(self, domain: str) -> SiteAnswer | None:
        return self._known.get(domain)

    async def targets(self, site: Site, family: int) -> tuple[Target, ...] | NoAddress | TempFail:
        return (Target(site.hosts[0][0], f"198.51.100.{zlib.crc32(site.name.encode()) % 250}", 25),)


class Platform:
    """Shared stores, an MX, and the processes that were started."""

    def __init__(
        self,
        world: World,
        *,
        settings: Settings = SETTINGS,
        behaviours: Mapping[str, Behaviour] | None = None,
        connections: int = 2,
    ) -> None:
        self.world = world
        self.settings = settings
        self.connections = connections
        """Of one binding to one site, at most."""
        self.stores = shared_stores(world, settings.visibility)
        self.mx = SimMx(world, message_of, behaviours)
        self.workers: dict[str, mta_worker.service.Worker] = {}
        """The latest incarnation of each, once it is wired."""
        self.acceptors: dict[str, Acceptor] = {}
        self.processes: dict[str, SimProcess] = {}
        """The latest incarnation of each."""
        self.last_end = 0.0
        """When a process ended last."""
        self.lanes: Sequence[str] = LANES
        self._kept: set[str] = set()

    # ------------------------------------------------------------ what the processes are given

    def backends(self, process: SimProcess) -> Backends:
        return SimBackends(process, self.stores)

    def sites(self, process: SimProcess) -> Sites:
        return SimSites(process, self.connections)

    # ------------------------------------------------------------ directory

    async def furnish(self) -> None:
        await store(self.stores.state, POOLS, "default", Pool("default", {"b1": 1, "b2": 1}))
        await self.set_binding("b1")
        await self.set_binding("b2")

    async def set_binding(self, name: str, *, alive: bool = True, proxy: str | None = None) -> None:
        """Its proxy is `proxy-<name>:1080`, unless given; empty for none."""
        proxy = f"proxy-{name}:1080" if proxy is None else proxy
        binding = Binding(name, f"192.0.2.{name[1:]}", f"{name}.platform.test", proxy=proxy, alive=alive)
        await store(self.stores.state, BINDINGS, name, binding)

    async def suspend(self, binding: str, domain: str, seconds: float) -> None:
        now = self.stores.clock.now()
        suspension = Suspension(binding, domain, now, now + seconds, "suspended by the scenario")
        await store(self.stores.state, SUSPENSIONS, suspension.sort, suspension)

    # ------------------------------------------------------------ processes

    def start(self, name: str) -> SimProcess:
        """A new incarnation of `ingest`, `reporting`, `router-N` or `worker-N`."""
        self.workers.pop(name, None)
        self.acceptors.pop(name, None)
        process = self.processes[name] = self.world.process(name)
        process.start(_SERVICES[name.partition("-")[0]](self, process))
        return process

    def keep(self, *names: str) -> None:
        """Start these, and each again some seconds after its end, as a supervisor does."""
        for name in names:
            self._kept.add(name)
            self.world.aside(self._keep(name))

    def forget(self, name: str) -> None:
        """Start it no more."""
        self._kept.discard(name)

    async def _keep(self, name: str) -> None:
        while name in self._kept:
            await self.start(name).ended.wait()
            self.last_end = self.world.loop.time()
            await asyncio.sleep(self.world.rng.uniform(0.5, 8.0))

    # ------------------------------------------------------------ the end

    async def drain(self) -> None:
        """Return once no mail waits anywhere, and none can come any more."""
        quiet_since = self.world.loop.time()
        while self.world.loop.time() < max(quiet_since, self.last_end) + LATE:
            await asyncio.sleep(5.0)
            if not self.at_rest():
                quiet_since = self.world.loop.time()

    def at_rest(self) -> bool:
        entries = any(queue.entries for name, queue in self.stores.queues.items() if name != EVENTS)
        return not entries and not any(partition.startswith("due/") for partition, _ in self.stores.state.rows)

    # ------------------------------------------------------------ wiring

    async def _ingest(self, process: SimProcess) -> None:
        backends = self.backends(process)
        self.acceptors[process.name] = Acceptor(
            blobs=backends.blobs,
            units=backends.queue("units"),
            state=backends.state,
            clock=process.clock,
            settings=self.settings,
            rng=process.rng,
        )
        await asyncio.Event().wait()

    async def _router(self, process: SimProcess) -> None:
        backends = self.backends(process)
        service = router.service.Router(
            backends,
            directory=Directory(backends.state, whole_every=self.settings.snapshot_whole),
            sites=self.sites(process),
            events=self._events(process, backends),
            parks=self._parks(process, backends),
            clock=process.clock,
            settings=self.settings,
        )
        await service.run()

    async def _worker(self, process: SimProcess) -> None:
        backends = self.backends(process)
        state, clock, settings = backends.state, process.clock, self.settings
        directory = Directory(state, whole_every=self.settings.snapshot_whole)

        def fenced(reason: str) -> None:
            process.exit(RuntimeError(reason))

        leases = LeaseKeeper(state, process.id, clock=clock, settings=settings, on_fenced=fenced)
        journal = Journal(state, process.id, clock=clock, settings=settings, on_fenced=fenced)
        postman = Postman(
            directory=directory,
            sites=self.sites(process),
            network=SimNetwork(process, self.mx),  # type: ignore[arg-type]
            state=state,
            leases=leases,
            clock=clock,
            settings=settings,
            proxy_key=KEY,
            return_path_key=KEY,
        )
        runner = OrderRunner(
            backends,
            claims=Claims(state, leases, journal, clock=clock, settings=settings, rng=process.rng),
            journal=journal,
            events=self._events(process, backends),
            parks=self._parks(process, backends),
            contents=Contents(backends.blobs),
            delivery=postman,
            clock=clock,
            settings=settings,
        )
        worker = self.workers[process.name] = mta_worker.service.Worker(
            backends,
            lanes=self.lanes,
            runner=runner,
            postman=postman,
            leases=leases,
            directory=directory,
            settings=settings,
        )
        await worker.run()

    async def _reporting(self, process: SimProcess) -> None:
        backends = self.backends(process)
        await Reporting(backends, clock=process.clock, settings=self.settings).run()

    def _parks(self, process: SimProcess, backends: Backends) -> Parks:
        return Parks(
            units=backends.queue("units"),
            state=backends.state,
            clock=process.clock,
            settings=self.settings,
            rng=process.rng,
        )

    def _events(self, process: SimProcess, backends: Backends) -> EventWriter:
        return EventWriter(
            blobs=backends.blobs,
            announcements=backends.queue(EVENTS),
            clock=process.clock,
            settings=self.settings,
            rng=process.rng,
        )


_SERVICES: dict[str, Callable[[Platform, SimProcess], Any]] = {
    "ingest": Platform._ingest,
    "reporting": Platform._reporting,
    "router": Platform._router,
    "worker": Platform._worker,
}

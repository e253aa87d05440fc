"""The platform's real services on metered stores, fed at a rate: on a virtual clock, or in real time on AWS."""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

from msgspec import Struct
from msgspec.structs import replace
from simulation.faults import Faults
from simulation.mx import Behaviour
from simulation.process import SimProcess
from simulation.services import Platform
from simulation.world import World

from bench import mixes
from bench.metered import LATENCY, Meter, MeteredBackends
from bench.stores import BenchBackends
from control.fleet import FleetController
from control.ownership import Report, SourceReport
from postfleet.deployment import ProxySite
from postfleet.directory import POOLS, Directory, Pool, store
from postfleet.dns.answers import TempFail
from postfleet.dns.site_resolver import NoAddress, Target
from postfleet.dns.sites import Site, SiteAnswer
from postfleet.ports import Backends
from postfleet.providers import LANES
from postfleet.settings import Settings
from postfleet.stages import Submission

INGESTS = ("ingest-1", "ingest-2")
WORKERS = ("worker-1", "worker-2", "worker-3", "worker-4")
SERVICES = (*INGESTS, "router-1", *WORKERS, "reporting")
PROXIES = tuple(tuple(f"b{5 * proxy + n}" for n in range(1, 6)) for proxy in range(4))
"""Bindings by proxy: enough for what the providers' profiles allow each."""
DEFERRED = 0.05
"""Share of messages whose first attempt is answered 451."""
SPEED_UP = 60.0
"""Retries come so much sooner than by default: 20 s for 20 minutes, and buckets of 1 s for 1 minute."""
INTERNET = Faults(latency=(0.02, 0.05), split=0.0, jitter=(0.0, 0.0))
PROBE_EVERY = 1.0
START = 1.0
"""Seconds that the services have for beginning."""
DIGEST = "d" * 64

Make = Callable[[str, int, random.Random], Submission]


class Load(Struct, frozen=True, kw_only=True):
    make: Make
    rate: float
    """Messages per second."""
    keyed: bool = False
    """Every submission has an idempotency key."""


class Measured(Struct, frozen=True, kw_only=True):
    accepted: int
    taken: int
    """By the recipients' hosts."""
    warnings: dict[str, int]
    """What the services logged at level warning or above, by event."""


class QuietWorld(World):
    """Keeps no trace, which would fill the memory, but of what the services warn of."""

    def __init__(self) -> None:
        super().__init__(1, INTERNET)
        self.calls = deque(maxlen=0)  # type: ignore[assignment]
        self.warnings: Counter[str] = Counter()

    def note(self, process: SimProcess | None, what: str, detail: str = "") -> None:
        if what in ("log warning", "log error"):
            self.warnings[detail.partition(" ")[0]] += 1


class KnownSites:
    """Every domain of the mixes, resolved already."""

    def __init__(self) -> None:
        self._known = mixes.sites()

    async def site_of(self, domain: str) -> SiteAnswer:
        return self._known[domain]

    def cached_site_of(self, domain: str) -> SiteAnswer | None:
        return self._known[domain]

    async def targets(self, site: Site, family: int) -> tuple[Target, ...] | NoAddress | TempFail:
        return (Target(site.hosts[0][0], "198.51.100.1", 25),)


class MeteredPlatform(Platform):
    """`open_stores` gives a process its view of the stores that all share."""

    def __init__(
        self,
        world: World,
        settings: Settings,
        open_stores: Callable[[SimProcess], Backends],
        latency: Mapping[str, float] = LATENCY,
    ) -> None:
        super().__init__(world, settings=settings)
        self._latency = latency
        self._open_stores = open_stores
        self._rng = random.Random("load")  # noqa: S311 - the same load each time
        self.meter = Meter()
        self.lanes = LANES
        self.mx.thanks = self._thanks
        self.mx.ledger = deque(maxlen=0)  # type: ignore[assignment]
        self.accepted = 0

    def backends(self, process: SimProcess) -> Backends:
        return MeteredBackends(process.name.partition("-")[0], self._open_stores(process), self.meter, self._latency)

    def sites(self, process: SimProcess) -> KnownSites:
        return KnownSites()

    def _thanks(self) -> str:
        """As long as Gmail's, and as little foreseeable."""
        drawn = self.world.rng.getrandbits
        return f"250 2.0.0 OK  {drawn(31)} {drawn(52):013x}-{drawn(40):010x}si{drawn(56):017d}.{drawn(9)} - gsmtp"

    # ------------------------------------------------------------ processes

    async def furnish(self) -> None:
        await store(
            self.stores.state, POOLS, "default", Pool("default", {name: 1 for names in PROXIES for name in names})
        )
        for names in PROXIES:
            for name in names:
                await self.set_binding(name, proxy=_proxy(names).socks)

    async def begin(self) -> None:
        await self.furnish()
        for name in SERVICES:
            self.start(name)
        for name in INGESTS:
            self.processes[name].spawn(self._keep_fresh(self.processes[name]))
        control = self.world.process("control")
        control.spawn(self._control(control))
        await asyncio.sleep(START)

    async def _keep_fresh(self, process: SimProcess) -> None:
        """As `ingest.service` does."""
        directory = Directory(self.backends(process).state, self.settings.snapshot_whole)
        while True:
            await directory.refresh()
            await asyncio.sleep(self.settings.snapshot_refresh)

    async def _control(self, process: SimProcess) -> None:
        state = self.backends(process).state
        fleet = FleetController(state, [_proxy(names) for names in PROXIES], _all_is_well, process.clock)
        while True:
            await fleet.round()
            await asyncio.sleep(PROBE_EVERY)

    # ------------------------------------------------------------ load

    async def feed(self, load: Load) -> None:
        """Hand submissions over, to one ingest after the other, for ever."""
        began, count = asyncio.get_running_loop().time(), 0
        while True:
            process = self.processes[INGESTS[count % len(INGESTS)]]
            count += 1
            process.spawn(self._hand_over(process, load, count))
            await asyncio.sleep(began + self.accepted / load.rate - asyncio.get_running_loop().time())

    def _hand_over(self, process: SimProcess, load: Load, number: int) -> Coroutine[Any, Any, object]:
        acceptor = self.acceptors[process.name]
        made = load.make(acceptor.new_id(), self.accepted, self._rng)
        self.accepted += len(made.messages)
        for message in made.messages:
            if self._rng.random() < DEFERRED:
                self.mx.behaviours[message.address] = Behaviour(defer=1)
        if not load.keyed:
            return acceptor.accept(made)
        return acceptor.accept_keyed(made.tenant, f"key-{number}", DIGEST, lambda identity: replace(made, id=identity))

    async def measure(self, load: Load, warm_up: float, seconds: float) -> Measured:
        """Count for `seconds`, after `warm_up`."""
        await self.begin()
        self.world.aside(self.feed(load))
        await asyncio.sleep(warm_up)
        accepted, taken = self.accepted, len(self.mx.taken)
        self.meter.on = True
        await asyncio.sleep(seconds)
        self.meter.on = False
        return Measured(
            accepted=self.accepted - accepted,
            taken=len(self.mx.taken) - taken,
            warnings=dict(self.world.warnings) if isinstance(self.world, QuietWorld) else {},
        )


def _proxy(names: tuple[str, ...]) -> ProxySite:
    """Its health address lists the addresses that it has."""
    sources = tuple(f"192.0.2.{name[1:]}" for name in names)
    return ProxySite(f"proxy-{names[0]}", f"proxy-{names[0]}:1080", ",".join(sources), sources)


async def _all_is_well(health: str) -> Report | str:
    return Report(tuple(SourceReport(source, True) for source in health.split(",")))


@contextmanager
def sooner() -> Iterator[None]:
    """The retry schedule, shortened in proportion: what waits longer than a queue's longest delay still does."""
    with ExitStack() as stack:
        stack.enter_context(patch("postfleet.park.MAX_DELAY", 900.0 / SPEED_UP))
        stack.enter_context(patch("postfleet.park.BUCKET", 60.0 / SPEED_UP))
        yield


def simulate(settings: Settings, load: Load, warm_up: float, seconds: float) -> tuple[Meter, Measured]:
    """Seconds are virtual."""
    world = QuietWorld()
    settings = replace(settings, retry_first=settings.retry_first / SPEED_UP)
    platform = MeteredPlatform(world, settings, lambda process: stores)
    stores = BenchBackends(platform.stores.clock, settings.visibility)
    platform.stores = stores  # type: ignore[assignment]
    with sooner():
        return platform.meter, world.run(platform.measure(load, warm_up, seconds))

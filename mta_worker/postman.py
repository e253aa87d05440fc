"""All deliveries of a worker: jobs come in by binding, routes carry them, outcomes go to the journal."""

from __future__ import annotations

import asyncio
import ipaddress
import math
import zlib
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

import structlog

from mta_worker.order import Job
from mta_worker.route import Route
from mta_worker.session import DialFailure, Session
from mta_worker.verdict import BounceClass, Scope, Verdict, next_try
from postfleet.clock import Clock
from postfleet.content import return_path
from postfleet.directory import SUSPENSIONS, Binding, Directory, Suspension, store
from postfleet.dns.answers import NoDomain, NullMx, TempFail
from postfleet.dns.site_resolver import NoAddress, Sites, Target
from postfleet.dns.sites import Site, SiteAnswer
from postfleet.lease import LeaseKeeper
from postfleet.ports import StateTable, StorageError
from postfleet.settings import DAY, Settings
from postfleet.socks.token import Claims as TokenClaims
from postfleet.socks.token import sign
from postfleet.stages import BOUNCED, DEFERRED, DELIVERED, REBIND, Outcome

log = structlog.get_logger()

TICK = 1.0
TOKEN_LIFETIME = 600
DEAD_HOST = 60.0
"""A host that could not be reached is tried last for so long, seconds."""
BOUNCES_WITHIN = 7 * DAY
"""A return path is good for this long after the message expired."""


class Network(Protocol):
    """The way out: connects to a proxy. Raises `OSError`."""

    async def connect(self, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> None: ...


class Postman:
    def __init__(
        self,
        *,
        directory: Directory,
        sites: Sites,
        network: Network,
        state: StateTable,
        leases: LeaseKeeper,
        clock: Clock,
        settings: Settings,
        proxy_key: bytes,
        return_path_key: bytes,
    ) -> None:
        self._directory = directory
        self._sites = sites
        self._network = network
        self._state = state
        self.leases = leases
        self.clock = clock
        self.settings = settings
        self._proxy_key = proxy_key
        self._return_path_key = return_path_key
        self.stopping = False
        self._routes: dict[tuple[str, str, str], Route] = {}
        """By binding, its proxy, and site."""
        self._dead_hosts: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # ------------------------------------------------------------ jobs in

    def submit(self, jobs: Iterable[Job], binding: str) -> None:
        jobs = list(jobs)
        record = self._directory.bindings.get(binding)
        if record is None or not record.proxy:
            reason = _no_way(binding, record)
            for job in jobs:
                self.conclude(job, Verdict(REBIND, Scope.PROXY), reason)
            return
        by_domain: dict[str, list[Job]] = {}
        for job in jobs:
            address = job.message.address
            by_domain.setdefault(address[address.rfind("@") + 1 :], []).append(job)
        for domain, members in by_domain.items():
            site = self._sites.cached_site_of(domain)
            if site is None:
                self.spawn(self._resolve(domain, members, record))
            else:
                self._dispatch(site, domain, members, record)

    async def _resolve(self, domain: str, jobs: list[Job], binding: Binding) -> None:
        self._dispatch(await self._sites.site_of(domain), domain, jobs, binding)

    def _dispatch(self, site: SiteAnswer, domain: str, jobs: list[Job], binding: Binding) -> None:
        match site:
            case NullMx():
                self._end_all(jobs, BOUNCED, f"556 5.1.10 {domain} takes no mail (null MX)")
            case NoDomain(reason):
                self._end_all(jobs, BOUNCED, f"550 5.1.2 {domain}: {reason}")
            case TempFail(reason):
                self._end_all(jobs, DEFERRED, f"451 4.4.3 {domain}: {reason}")
            case Site():
                self._route(binding, site).submit(jobs)

    def _end_all(self, jobs: list[Job], kind: str, reason: str) -> None:
        for job in jobs:
            self.conclude(job, Verdict(kind, Scope.SITE, BounceClass.DNS_FAILURE), reason)

    def _route(self, binding: Binding, site: Site) -> Route:
        key = (binding.name, binding.proxy, site.name)
        route = self._routes.get(key)
        if route is None:
            route = self._routes[key] = Route(self, binding, site)
        return route

    # ------------------------------------------------------------ outcomes out

    def conclude(
        self, job: Job, verdict: Verdict, reply: str, *, code: int = 0, mx: str = "", source_ip: str = ""
    ) -> asyncio.Future[None]:
        """Journal a verdict. `code` is that of the reply that decided; 0 makes it nobody's attempt."""
        now = self.clock.now()
        outcome = Outcome(
            n=job.n,
            kind=verdict.kind,
            at=now,
            due=self._due(job, verdict, code, now),
            code=code,
            reply=reply,
            mx=mx,
            source_ip=source_ip,
            block=verdict.block,
            bounce_class=verdict.bounce_class,
        )
        return job.settle(outcome)

    def _due(self, job: Job, verdict: Verdict, code: int, now: float) -> float:
        if verdict.kind == DELIVERED:
            return 0.0
        if verdict.kind == REBIND or verdict.block:
            return min(now + self.settings.rebind_delay, job.transmission.expires_at)
        if verdict.kind != DEFERRED:
            return 0.0
        return next_try(
            attempts=job.message.attempts,
            accepted_at=job.transmission.accepted_at,
            expires_at=job.transmission.expires_at,
            answered=code != 0,
            spread=zlib.crc32(job.run.order.id.encode()) / 2**32,
            settings=self.settings,
            now=now,
        )

    def return_path(self, job: Job) -> str:
        transmission = job.transmission
        return return_path.encode(
            self._return_path_key,
            transmission.tenant,
            transmission.id,
            job.message.index,
            transmission.expires_at + BOUNCES_WITHIN,
            transmission.bounce_domain,
        )

    def suspend(self, binding: Binding, limit_key: str, reason: str) -> None:
        """A reply blocked the binding's IP: nothing more goes there from it for a while."""
        now = self.clock.now()
        suspension = Suspension(binding.name, limit_key, now, now + self.settings.retry_first, reason)
        log.warning("binding_suspended", binding=binding.name, limit_key=limit_key, reason=reason)
        self.spawn(self._store_suspension(suspension))
        for route in self._routes.values():
            if route.binding.name == binding.name and route.site.limit_key == limit_key:
                route.rebind_waiting(f"{binding.name} suspended for {limit_key}: {reason}")

    async def _store_suspension(self, suspension: Suspension) -> None:
        try:
            await store(self._state, SUSPENSIONS, suspension.sort, suspension, suspension.until + DAY)
        except StorageError as error:
            log.warning("suspension_not_stored", error=str(error))

    # ------------------------------------------------------------ sessions

    async def targets(self, site: Site, binding: Binding) -> tuple[Target, ...] | NoAddress | TempFail:
        """Where to dial, hosts that were just seen dead last."""
        found = await self._sites.targets(site, ipaddress.ip_address(binding.ip).version)
        if isinstance(found, tuple) and self._dead_hosts:
            now = self.clock.mono()
            return tuple(sorted(found, key=lambda target: self._dead_hosts.get(target.address, 0.0) > now))
        return found

    def host_failed(self, address: str) -> None:
        self._dead_hosts[address] = self.clock.mono() + DEAD_HOST

    async def open_session(self, route: Route, target: Target) -> Session | DialFailure:
        session = Session(self, route, target, self._token(route, target))
        host, _, port = route.binding.proxy.rpartition(":")
        try:
            await self._network.connect(lambda: session, host.strip("[]"), int(port))
        except OSError as error:
            reason = f"proxy {route.binding.proxy} of binding {route.binding.name}: {error.strerror or error}"
            return DialFailure(Verdict(REBIND, Scope.PROXY), reason)
        return await session.opened

    def _token(self, route: Route, target: Target) -> str:
        """Limits change with time, so the newest token has the newest policy."""
        now = self.clock.now()
        claims = TokenClaims(
            source=route.binding.ip,
            host=target.address,
            port=target.port,
            limit_key=route.site.limit_key,
            max_connections=route.site.profile.connections or self.settings.connections_per_key,
            policy_version=int(now),
            expires=int(now) + TOKEN_LIFETIME,
            connections_per_minute=math.ceil(route.site.profile.connections_per_minute or 0),
        )
        return sign(self._proxy_key, claims)

    # ------------------------------------------------------------ life

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._task_done)

    def _task_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and task.exception() is not None:
            log.error("delivery_task_failed", exc_info=task.exception())

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        asyncio.get_running_loop().call_later(delay, callback)

    async def run(self) -> None:
        """Time passes for routes: idle sessions close, jobs that waited too long go back."""
        while True:
            await asyncio.sleep(TICK)
            now = self.clock.mono()
            for key, route in list(self._routes.items()):
                self._check_binding(route, now)
                route.tick(now)
                route.pump()
                if route.empty:
                    del self._routes[key]
            self._dead_hosts = {host: until for host, until in self._dead_hosts.items() if until > now}

    def _check_binding(self, route: Route, now: float) -> None:
        record = self._directory.bindings.get(route.binding.name)
        gone = record is None or record.proxy != route.binding.proxy
        route.check_way(_no_way(route.binding.name, record) if gone else "", now)

    def stop(self) -> None:
        """Begin nothing more; messages whose transaction runs are finished."""
        self.stopping = True
        for route in self._routes.values():
            route.pump()

    def abort(self) -> None:
        """Close every session at once."""
        for route in self._routes.values():
            route.abort()


def _no_way(binding: str, record: Binding | None) -> str:
    if record is None:
        return f"no binding {binding}"
    return f"binding {binding} moved to proxy {record.proxy}" if record.proxy else f"binding {binding} has no proxy"

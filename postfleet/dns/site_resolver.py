"""What the router and the worker ask: which site a domain belongs to, and where to dial it."""

from __future__ import annotations

import asyncio
import ipaddress
from random import Random
from typing import Protocol

from msgspec import Struct

from postfleet.clock import Clock
from postfleet.deployment import split_address
from postfleet.dns.answers import Addresses, MxHosts, NoDomain, TempFail
from postfleet.dns.cache import AnswerCache, Lasting
from postfleet.dns.query import Nameservers, Query
from postfleet.dns.resolver import Resolver
from postfleet.dns.sites import BadDomain, Site, SiteAnswer, domain_name, site_of_hosts
from postfleet.providers import DEFAULT, Profile, Providers, lane

SMTP_PORT = 25
ENOUGH_TARGETS = 5
"""Hosts of lower preference are not looked up once there are so many addresses (RFC 5321 section 5.1 wants two)."""
ROUTE = "route"
_UNLIMITED = 1_000_000
_UNPACED = Profile(name=DEFAULT.name, connections=_UNLIMITED, messages_per_connection=_UNLIMITED)
CACHE_SIZE = 50_000


class Target(Struct, frozen=True):
    """Something to dial."""

    host: str
    address: str
    port: int


class NoAddress(Struct, frozen=True):
    """No host of the site has an address of this family."""

    elsewhere: bool
    """Whether one has an address of the other family."""


class Sites(Protocol):
    """Raises nothing: whatever is wrong with a domain is an answer."""

    async def site_of(self, domain: str) -> SiteAnswer:
        """`domain` is the part of an address after its @, as it was given."""
        ...

    def cached_site_of(self, domain: str) -> SiteAnswer | None:
        """None where the answer is not known, or not any more."""
        ...

    async def targets(self, site: Site, family: int) -> tuple[Target, ...] | NoAddress | TempFail:
        """Where to dial, in order of preference, equally preferred ones shuffled at each call. `family` is 4 or 6."""
        ...


class SiteResolver:
    """By MX records. Sites are cached for as long as the records behind them last."""

    def __init__(
        self, query: Query, clock: Clock, randomness: Random, providers: Providers, port: int = SMTP_PORT
    ) -> None:
        self._resolver = Resolver(query, clock)
        self._randomness = randomness
        self._providers = providers
        self._port = port
        self._sites = AnswerCache(self._fetch, clock, CACHE_SIZE)

    async def site_of(self, domain: str) -> SiteAnswer:
        return (await self._sites.get(domain.lower())).value

    def cached_site_of(self, domain: str) -> SiteAnswer | None:
        kept = self._sites.fresh(domain.lower())
        return None if kept is None else kept.value

    async def targets(self, site: Site, family: int) -> tuple[Target, ...] | NoAddress | TempFail:
        found: list[Target] = []
        failure = None
        for hosts in site.hosts:
            targets, failed = await self._targets_of(hosts, family)
            found += targets
            failure = failure or failed
            if len(found) >= ENOUGH_TARGETS:
                break
        if found:
            return tuple(found)
        return failure or await self._no_address(site, family)

    async def _targets_of(self, hosts: tuple[str, ...], family: int) -> tuple[list[Target], TempFail | None]:
        answers = await asyncio.gather(*(self._resolver.addresses(host, family) for host in hosts))
        failure = next((answer for answer in answers if isinstance(answer, TempFail)), None)
        targets = [
            Target(host, address, self._port)
            for host, answer in zip(hosts, answers, strict=True)
            if isinstance(answer, Addresses)
            for address in answer.values
        ]
        self._randomness.shuffle(targets)
        return targets, failure

    async def _no_address(self, site: Site, family: int) -> NoAddress | TempFail:
        for hosts in site.hosts:
            targets, failure = await self._targets_of(hosts, 10 - family)
            if targets:
                return NoAddress(elsewhere=True)
            if failure:
                return failure
        return NoAddress(elsewhere=False)

    async def _fetch(self, domain: str) -> Lasting[SiteAnswer]:
        try:
            name = domain_name(domain)
        except BadDomain as error:
            return Lasting(NoDomain(str(error)), float("inf"))
        answer, expires = await self._resolver.mx(name)
        if isinstance(answer, MxHosts):
            return Lasting(site_of_hosts(answer, self._providers), expires)
        return Lasting(answer, expires)


class Route:
    """One site: all mail goes to `host`, an IP address, and no nameserver is asked."""

    def __init__(self, host: str, port: int) -> None:
        self._site = Site(
            ROUTE,
            ROUTE,
            lane(DEFAULT, ROUTE),
            DEFAULT.name,
            ((host,),),
            _UNPACED,
        )
        self._target = Target(host, host, port)
        self._family = ipaddress.ip_address(host).version

    async def site_of(self, domain: str) -> SiteAnswer:
        return self._site

    def cached_site_of(self, domain: str) -> SiteAnswer | None:
        return self._site

    async def targets(self, site: Site, family: int) -> tuple[Target, ...] | NoAddress | TempFail:
        return (self._target,) if family == self._family else NoAddress(elsewhere=True)


def open_sites(
    clock: Clock,
    randomness: Random,
    providers: Providers,
    *,
    nameserver: str = "",
    port: int = SMTP_PORT,
    route: str = "",
) -> Sites:
    """`nameserver` and `route` are `host:port` of IP addresses; empty for the system's nameservers and for MX records.

    Raises `ValueError` for malformed ones.
    """
    if route:
        return Route(*split_address(route))
    query = Nameservers([split_address(nameserver)]) if nameserver else Nameservers.of_system()
    return SiteResolver(query, clock, randomness, providers, port)

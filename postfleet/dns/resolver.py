"""MX hosts and addresses, cached; what is not there is as much an answer as what is."""

from __future__ import annotations

import asyncio
import ipaddress

from postfleet.clock import Clock
from postfleet.dns.answers import Addresses, MxHosts, NoDomain, NullMx, TempFail
from postfleet.dns.cache import AnswerCache, Lasting
from postfleet.dns.query import Query, QueryFailed, Reply

MAX_HOSTS = 20
"""A domain's hosts beyond these, in order of preference, are never tried."""
CACHE_SIZE = 50_000
CONCURRENT_QUERIES = 100
TTL_FLOOR = 30.0
TTL_CEILING = 3600.0
NEGATIVE_CEILING = 900.0
FAILURE_TTL = 10.0
"""Seconds that a failure is remembered (RFC 2308 section 7 allows five minutes)."""


MxAnswer = MxHosts | NullMx | NoDomain | TempFail
_Answer = Reply | TempFail
_FAMILIES = {4: "A", 6: "AAAA"}


class Resolver:
    """Takes names as A-labels, without a trailing dot."""

    def __init__(self, query: Query, clock: Clock) -> None:
        self._query = query
        self._clock = clock
        self._slots = asyncio.Semaphore(CONCURRENT_QUERIES)
        self._answers = AnswerCache(self._fetch, clock, CACHE_SIZE)

    async def mx(self, domain: str) -> Lasting[MxAnswer]:
        """RFC 5321 section 5.1: the MX hosts, or the domain itself where it has no MX but an address."""
        answer, expires = await self._answers.get((domain, "MX"))
        if isinstance(answer, TempFail):
            return Lasting(answer, expires)
        if not answer.exists:
            return Lasting(NoDomain(f"{domain} does not exist"), expires)
        if answer.records:
            return Lasting(_mx_hosts(answer.records), expires)
        return await self._implicit_mx(domain, expires)

    async def addresses(self, host: str, family: int) -> Addresses | TempFail:
        """`family` is 4 or 6."""
        answer = (await self._answers.get((host, _FAMILIES[family]))).value
        return answer if isinstance(answer, TempFail) else Addresses(answer.records)

    async def pointers(self, ip: str) -> tuple[str, ...] | TempFail:
        """The names that the PTR records of an IP address give, each with a trailing dot."""
        name = ipaddress.ip_address(ip).reverse_pointer
        answer = (await self._answers.get((name, "PTR"))).value
        return answer if isinstance(answer, TempFail) else answer.records

    async def _implicit_mx(self, domain: str, expires: float) -> Lasting[MxAnswer]:
        failure = None
        for rdtype in _FAMILIES.values():
            answer, until = await self._answers.get((domain, rdtype))
            expires = min(expires, until)
            if isinstance(answer, TempFail):
                failure = answer
            elif answer.records:
                return Lasting(MxHosts(((0, domain),)), expires)
        return Lasting(failure or NoDomain(f"{domain} has neither MX nor address records"), expires)

    async def _fetch(self, question: tuple[str, str]) -> Lasting[_Answer]:
        name, rdtype = question
        async with self._slots:
            try:
                reply = await self._query(name, rdtype)
            except QueryFailed as error:
                return Lasting(TempFail(f"{rdtype} of {name}: {error}"), self._clock.mono() + FAILURE_TTL)
        return Lasting(reply, self._clock.mono() + _lifetime(reply))


def _lifetime(reply: Reply) -> float:
    ceiling = TTL_CEILING if reply.records else NEGATIVE_CEILING
    return min(max(reply.ttl, TTL_FLOOR), ceiling)


def _mx_hosts(records: tuple[str, ...]) -> MxHosts | NullMx:
    """A null MX beside others means nothing (RFC 7505 section 3 forbids it)."""
    hosts = sorted((int(preference), name.lower().rstrip(".")) for preference, name in map(str.split, records))
    named = tuple(host for host in hosts if host[1])
    return MxHosts(named[:MAX_HOSTS]) if named else NullMx()

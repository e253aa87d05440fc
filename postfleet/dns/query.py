"""One question to a nameserver, by UDP, then by TCP where the answer was cut."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import dns.asyncquery
import dns.exception
import dns.message
import dns.rcode
import dns.rdatatype
import dns.resolver
from msgspec import Struct

ATTEMPTS = 2
TIMEOUT = 3.0
"""Seconds that one nameserver has for one answer."""
DNS_PORT = 53
MAX_UDP = 1232
"""Bytes that pass unfragmented everywhere."""


class Reply(Struct, frozen=True):
    """What a nameserver said; `records` in presentation format (RFC 1035 section 5.1), CNAMEs followed."""

    exists: bool
    """Whether there is such a name; if so, `records` may still be empty."""
    records: tuple[str, ...]
    ttl: float


class QueryFailed(Exception):
    """No answer that could be believed: nothing is known about the name, and later it may be."""


Query = Callable[[str, str], Awaitable[Reply]]
"""(name, record type) -> Reply. Raises `QueryFailed`."""


class Nameservers:
    """Recursive nameservers, asked in order until one answers. Calling it is a `Query`."""

    def __init__(self, addresses: Sequence[tuple[str, int]], timeout: float = TIMEOUT) -> None:
        self._addresses = tuple(addresses)
        self._timeout = timeout

    @classmethod
    def of_system(cls) -> Nameservers:
        """Those of /etc/resolv.conf. Raises `dns.resolver.NoResolverConfiguration`."""
        return cls([(str(server), DNS_PORT) for server in dns.resolver.Resolver().nameservers])

    async def __call__(self, name: str, rdtype: str) -> Reply:
        failure = QueryFailed("no nameserver is configured")
        for _ in range(ATTEMPTS):
            for host, port in self._addresses:
                try:
                    return _reply(await self._ask(name, rdtype, host, port))
                except QueryFailed as error:
                    failure = error
        raise failure

    async def _ask(self, name: str, rdtype: str, host: str, port: int) -> dns.message.QueryMessage:
        try:
            question = dns.message.make_query(name, rdtype, use_edns=0, payload=MAX_UDP)
            async with asyncio.timeout(self._timeout):
                # Strangers' packets and mismatched ids are passed over: they may be forged.
                response, _ = await dns.asyncquery.udp_with_fallback(
                    question, host, port=port, ignore_unexpected=True, ignore_errors=True
                )
        except TimeoutError:
            raise QueryFailed(f"nameserver {host}:{port} did not answer within {self._timeout:g} s") from None
        except (OSError, EOFError, dns.exception.DNSException) as error:
            raise QueryFailed(f"nameserver {host}:{port}: {error or type(error).__name__}") from error
        if response.rcode() not in (dns.rcode.NOERROR, dns.rcode.NXDOMAIN):
            raise QueryFailed(f"nameserver {host}:{port} said {dns.rcode.to_text(response.rcode())}")
        return cast(dns.message.QueryMessage, response)


def _reply(response: dns.message.QueryMessage) -> Reply:
    try:
        chain = response.resolve_chaining()
    except dns.exception.DNSException as error:
        raise QueryFailed(f"malformed answer: {error or type(error).__name__}") from error
    if chain.answer is None and _is_referral(response):
        raise QueryFailed("the nameserver only refers to others: it is no resolver, or lame")
    records = tuple(rdata.to_text() for rdata in chain.answer or ())
    return Reply(response.rcode() != dns.rcode.NXDOMAIN, records, chain.minimum_ttl)


def _is_referral(response: dns.message.Message) -> bool:
    """RFC 2308 section 2.2.1: nameservers named, but no SOA that would vouch for the absence of records."""
    types = {rrset.rdtype for rrset in response.authority}
    return dns.rdatatype.NS in types and dns.rdatatype.SOA not in types

"""MX roll-up: domains whose mail goes to the same hosts are one site."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Iterable

import idna
from msgspec import Struct

from postfleet.dns.answers import MxHosts, NoDomain, NullMx, TempFail
from postfleet.providers import DEFAULT, Profile, Providers, lane, limit_key

MAX_NAME = 80
_QUALIFIED = re.compile(r"(?:[a-z0-9_-]{1,63}\.)+(?!\d+$)[a-z0-9-]{1,63}")


class Site(Struct, frozen=True):
    name: str
    """The same for all domains with the same set of MX hosts."""
    limit_key: str
    lane: str
    provider: str
    hosts: tuple[tuple[str, ...], ...]
    """Host names in order of preference, equal ones together. Two domains of one site may prefer differently."""
    profile: Profile = DEFAULT


SiteAnswer = Site | NullMx | NoDomain | TempFail


def site_of_hosts(mx: MxHosts, providers: Providers) -> Site:
    hosts = dict.fromkeys(name for _, name in mx.hosts)
    name = site_name(hosts)
    profile = providers.of_site(hosts)
    return Site(
        name=name,
        limit_key=limit_key(profile, name),
        lane=lane(profile, name),
        provider=profile.name,
        hosts=_by_preference(mx),
        profile=profile,
    )


def _by_preference(mx: MxHosts) -> tuple[tuple[str, ...], ...]:
    groups = itertools.groupby(mx.hosts, key=lambda host: host[0])
    return tuple(tuple(name for _, name in group) for _, group in groups)


def site_name(hosts: Iterable[str]) -> str:
    """`(mx1|mx2).example.net`: sorted, the common end written once; with a hash in the middle where that is long."""
    labels = [host.split(".") for host in sorted(set(hosts))]
    if len(labels) == 1:
        return ".".join(labels[0])
    shared = _shared_end(labels)
    heads = "|".join(".".join(parts[: len(parts) - shared]) for parts in labels)
    name = ".".join((f"({heads})", *labels[0][len(labels[0]) - shared :]))
    return name if len(name) <= MAX_NAME else _shortened(name, labels[0][len(labels[0]) - shared :])


def _shared_end(labels: list[list[str]]) -> int:
    """How many labels all names end in alike, leaving at least one of each."""
    shared = 0
    for column in zip(*(reversed(parts[1:]) for parts in labels), strict=False):
        if len(set(column)) > 1:
            break
        shared += 1
    return shared


def _shortened(name: str, end: list[str]) -> str:
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    return ".".join((f"({digest})", *end))[:MAX_NAME]


class BadDomain(ValueError):
    """Not a name that mail can be sent to."""


def domain_name(domain: str) -> str:
    """A recipient's domain as A-labels in lower case. Raises `BadDomain` for address literals and malformed names."""
    if domain.startswith("["):
        raise BadDomain(f"{domain}: mail to address literals is not sent")
    name = domain.lower() if domain.isascii() else _a_labels(domain)
    if len(name) > 253 or not _QUALIFIED.fullmatch(name):
        raise BadDomain(f"{domain!r} is not a fully qualified domain name")
    return name


def _a_labels(domain: str) -> str:
    try:
        return idna.encode(domain, uts46=True).decode()
    except idna.IDNAError as error:
        raise BadDomain(f"{domain!r} is not an internationalized domain name: {error}") from error

"""The simulated internet's names: 30 domains whose mail goes to 8 sites, and the odd ones that a mailer must survive.

Everything is derived from `SITES` and the special names below; nothing here does I/O.
MX host `h` of site `s` listens on 127.1.s.h.
"""

from __future__ import annotations

import ipaddress

from msgspec import Struct


class Host(Struct, frozen=True):
    """One MX host."""

    name: str
    preference: int
    addresses: tuple[str, ...]
    alive: bool = True
    """Nothing listens on a dead host's addresses."""


class MailSite(Struct, frozen=True):
    name: str
    hosts: tuple[Host, ...]
    domains: tuple[str, ...]


NULL_MX_DOMAIN = "nomail.example"
"""Takes no mail (RFC 7505)."""
ADDRESS_ONLY_DOMAIN = "aonly.example"
"""Has an address and no MX: mail goes to the domain itself."""
SERVFAIL_DOMAIN = "servfail.example"
"""Its nameserver is broken."""
MISSING_DOMAIN = "nosuch.example"
"""Does not exist."""
DEAD_FIRST_DOMAIN = "deadfirst.example"
"""Nothing listens at its preferred MX host; the second one works."""

SOURCES = {
    "127.0.0.11": "out11.postfleet.example",
    "127.0.0.12": "out12.postfleet.example",
    "127.0.0.21": "out21.postfleet.example",
    "127.0.0.22": "out22.postfleet.example",
}
"""The platform's own sending addresses, and the names that A and PTR records agree on."""


def _domains(stem: str, count: int, top: str = "example") -> tuple[str, ...]:
    return tuple(f"{stem}{n}.{top}" for n in range(1, count + 1))


SITES = (
    MailSite(
        "gmail",
        (
            Host("aspmx.gmail.sandbox.example", 5, ("127.1.1.1",)),
            Host("alt1.aspmx.gmail.sandbox.example", 10, ("127.1.1.2",)),
            Host("alt2.aspmx.gmail.sandbox.example", 10, ("127.1.1.3",)),
        ),
        _domains("inbox", 6),
    ),
    MailSite(
        "microsoft",
        (Host("inbound.olc.microsoft.sandbox.example", 2, ("127.1.2.1", "127.1.2.2")),),
        _domains("live", 4),
    ),
    MailSite(
        "office365",
        (Host("tenants.mail.office365.sandbox.example", 0, ("127.1.3.1",)),),
        _domains("firm", 4),
    ),
    MailSite(
        "yahoo",
        (
            Host("mta5.am0.yahoo.sandbox.example", 1, ("127.1.4.1",)),
            Host("mta6.am0.yahoo.sandbox.example", 1, ("127.1.4.2",)),
            Host("mta7.am0.yahoo.sandbox.example", 1, ("127.1.4.3",)),
        ),
        _domains("mailbox", 4),
    ),
    MailSite(
        "apple",
        (
            Host("mx01.mail.apple.sandbox.example", 10, ("127.1.5.1",)),
            Host("mx02.mail.apple.sandbox.example", 10, ("127.1.5.2",)),
        ),
        _domains("cloud", 3),
    ),
    MailSite(
        "cable",
        (
            Host("mx1.cable.sandbox.example", 5, ("127.1.6.1",)),
            Host("mx2.cable.sandbox.example", 5, ("127.1.6.2",)),
        ),
        _domains("cable", 3),
    ),
    MailSite("campus", (Host("mail.campus.sandbox.test", 10, ("127.1.7.1",)),), _domains("campus", 3, "test")),
    MailSite(
        "filter",
        (
            Host("in1.filter.sandbox.test", 10, ("127.1.8.1",)),
            Host("in2.filter.sandbox.test", 20, ("127.1.8.2",)),
        ),
        _domains("office", 3, "test"),
    ),
)

ADDRESS_ONLY_SITE = MailSite("aonly", (Host(ADDRESS_ONLY_DOMAIN, 0, ("127.1.9.1",)),), (ADDRESS_ONLY_DOMAIN,))

DEAD_FIRST_SITE = MailSite(
    "deadfirst",
    (
        Host("mx1.deadfirst.sandbox.example", 10, ("127.1.10.1",), alive=False),
        Host("mx2.deadfirst.sandbox.example", 20, ("127.1.10.2",)),
    ),
    (DEAD_FIRST_DOMAIN,),
)

ALL_SITES = (*SITES, ADDRESS_ONLY_SITE, DEAD_FIRST_SITE)

DOMAINS = tuple(domain for site in SITES for domain in site.domains)
"""Ordinary domains."""
SITE_OF = {domain: site for site in ALL_SITES for domain in site.domains}
"""Every domain that takes mail."""
SITE_AT = {address: site for site in ALL_SITES for host in site.hosts for address in host.addresses}
HOST_AT = {address: host for site in ALL_SITES for host in site.hosts for address in host.addresses}
MX_ADDRESSES = tuple(address for address, host in HOST_AT.items() if host.alive)
"""Where the sink listens."""
DEAD_ADDRESSES = tuple(address for address, host in HOST_AT.items() if not host.alive)

ZONES = ("example", "test", "127.in-addr.arpa")
FAILING = frozenset({SERVFAIL_DOMAIN})

Records = dict[tuple[str, str], tuple[str, ...]]
"""(name without trailing dot, type) -> records in presentation format."""


def _records() -> Records:
    records: Records = {(NULL_MX_DOMAIN, "MX"): ("0 .",)}
    for site in ALL_SITES:
        for host in site.hosts:
            records[host.name, "A"] = host.addresses
        if site is not ADDRESS_ONLY_SITE:
            mx = tuple(f"{host.preference} {host.name}." for host in site.hosts)
            records |= {(domain, "MX"): mx for domain in site.domains}
    for address, name in SOURCES.items():
        records[name, "A"] = (address,)
        records[ipaddress.ip_address(address).reverse_pointer, "PTR"] = (f"{name}.",)
    return records


RECORDS = _records()

PROVIDERS_TOML = """\
# The sandbox's imitations of the big providers, which speak no TLS, and all its other hosts, which take what comes.

[profile.gmail]
suffixes = ["gmail.sandbox.example"]
connections = 20
tls = "opportunistic"

[profile.microsoft]
suffixes = ["microsoft.sandbox.example"]
connections = 20

[profile.office365]
suffixes = ["office365.sandbox.example"]
connections = 20

[profile.yahoo]
suffixes = ["yahoo.sandbox.example"]

[profile.apple]
suffixes = ["apple.sandbox.example"]
connections = 20

[profile.default]
connections_per_minute = 1000000
messages_per_minute = 1000000
"""

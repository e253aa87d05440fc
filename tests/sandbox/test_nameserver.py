"""The sandbox's nameserver, asked by dnspython's own resolver and queries."""

from __future__ import annotations

import asyncio
import socket
from random import Random

import dns.asyncquery
import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.resolver
import pytest
from support.dns_fakes import TurnedClock

from postfleet.dns import NoDomain, NullMx, TempFail, open_sites
from postfleet.providers import Providers, parse_profiles
from sandbox import world
from sandbox.nameserver import Authority, start_nameserver


@pytest.fixture
async def port():
    server = await start_nameserver("127.0.0.1", 0)
    yield server.port
    server.close()


@pytest.fixture
def resolver(port):
    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], port
    return resolver


@pytest.fixture
def sites(port):
    providers = Providers(parse_profiles(world.PROVIDERS_TOML, "sandbox"))
    return open_sites(TurnedClock(), Random(1), providers, nameserver=f"127.0.0.1:{port}", port=2525)


async def rcode(port: int, name: str, rdtype: str = "A") -> dns.rcode.Rcode:
    response = await dns.asyncquery.udp(dns.message.make_query(name, rdtype), "127.0.0.1", port=port, timeout=5)
    return response.rcode()


@pytest.mark.parametrize("tcp", [False, True])
async def test_mx_records(resolver, tcp):
    """MX records come by UDP and by TCP."""
    answer = await resolver.resolve("inbox1.example", "MX", tcp=tcp)
    assert min(answer).to_text() == "5 aspmx.gmail.sandbox.example."


@pytest.mark.parametrize(("address", "name"), world.SOURCES.items())
async def test_sources_have_names_both_ways(resolver, address, name):
    """The A and PTR records of a sending address agree."""
    assert [record.to_text() for record in await resolver.resolve(name, "A")] == [address]
    assert [record.to_text() for record in await resolver.resolve_address(address)] == [f"{name}."]


async def test_names_in_any_case(resolver):
    """Names are compared without regard to case."""
    assert len(await resolver.resolve("INBOX1.Example", "MX")) == 3


@pytest.mark.parametrize(
    ("name", "code"),
    [
        (world.MISSING_DOMAIN, dns.rcode.NXDOMAIN),
        (world.SERVFAIL_DOMAIN, dns.rcode.SERVFAIL),
        ("gmail.com", dns.rcode.REFUSED),
        ("gmail.sandbox.example", dns.rcode.NOERROR),
    ],
)
async def test_return_codes(port, name, code):
    """Absent, broken and foreign names each get their own return code; an empty non-terminal exists."""
    assert await rcode(port, name) == code


async def test_absence_has_a_ttl(resolver):
    """Negative answers carry the SOA that says how long they last (RFC 2308)."""
    with pytest.raises(dns.resolver.NXDOMAIN) as absent:
        await resolver.resolve(world.MISSING_DOMAIN, "MX")
    response = absent.value.response(absent.value.qnames()[0])
    assert response.authority[0].to_text().startswith("example. 60 IN SOA ")


async def test_long_answers_are_cut():
    """What does not fit a datagram of 512 bytes is marked as cut."""
    records = {("many.example", "MX"): tuple(f"10 host-{n}.many.example." for n in range(60))}
    server = await start_nameserver("127.0.0.1", 0, Authority(records))
    query = dns.message.make_query("many.example", "MX")
    response = await dns.asyncquery.udp(query, "127.0.0.1", port=server.port, timeout=5)
    server.close()
    assert response.flags & dns.flags.TC


async def test_garbage_is_ignored(port, resolver):
    """A datagram that is no DNS message leaves the nameserver as it was."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.sendto(b"\x00garbage", ("127.0.0.1", port))
    assert await resolver.resolve("inbox1.example", "MX")


async def test_a_broken_stream_is_closed(port):
    """A TCP client that sends garbage is hung up on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"\x00\x05hello")
    assert await reader.read() == b""
    writer.close()


async def test_a_taken_port_is_an_error(port):
    """Listening where somebody listens already fails."""
    with pytest.raises(OSError, match=str(port)):
        await start_nameserver("127.0.0.1", port)


def test_the_world_has_thirty_domains_at_eight_sites():
    """Thirty ordinary domains share eight sites, and no address belongs to two hosts."""
    assert len(set(world.DOMAINS)) == 30
    assert len({world.SITE_OF[domain].name for domain in world.DOMAINS}) == 8
    hosts = [host for site in world.ALL_SITES for host in site.hosts]
    assert sum(len(host.addresses) for host in hosts) == len(world.HOST_AT)


@pytest.mark.parametrize("site", world.ALL_SITES, ids=lambda site: site.name)
async def test_domains_roll_up_to_their_site(sites, site):
    """The platform's resolver sees one site behind all domains of a sandbox site, and all its addresses."""
    found = [await sites.site_of(domain) for domain in site.domains]
    assert len(set(found)) == 1
    targets = await sites.targets(found[0], 4)
    assert {target.address for target in targets} == {address for host in site.hosts for address in host.addresses}


@pytest.mark.parametrize("provider", ["gmail", "microsoft", "office365", "yahoo", "apple"])
async def test_imitations_have_the_providers_profile(sites, provider):
    """With the sandbox's profiles, an imitated provider is taken for the real one."""
    domain = next(site for site in world.SITES if site.name == provider).domains[0]
    assert (await sites.site_of(domain)).provider == provider


async def test_odd_domains(sites):
    """Null MX, an absent domain and a broken nameserver are told apart."""
    assert await sites.site_of(world.NULL_MX_DOMAIN) == NullMx()
    assert isinstance(await sites.site_of(world.MISSING_DOMAIN), NoDomain)
    assert isinstance(await sites.site_of(world.SERVFAIL_DOMAIN), TempFail)


async def test_the_dead_host_comes_first(sites):
    """The domain with a dead preferred host offers it first, and a live one after it."""
    targets = await sites.targets(await sites.site_of(world.DEAD_FIRST_DOMAIN), 4)
    assert targets[0].address in world.DEAD_ADDRESSES
    assert targets[1].address in world.MX_ADDRESSES

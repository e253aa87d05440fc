from __future__ import annotations

import asyncio
from random import Random

import pytest
from support.dns_fakes import Table, TurnedClock

from postfleet.dns import NoAddress, NoDomain, NullMx, Site, SiteResolver, Target, TempFail, open_sites
from postfleet.dns.cache import AnswerCache, Lasting
from postfleet.providers import Providers

RECORDS = {
    ("two.example", "MX"): ("20 B.mx.example.", "10 a.mx.example."),
    ("too.example", "MX"): ("20 b.mx.example.", "10 a.mx.example."),
    ("null.example", "MX"): ("0 .",),
    ("mixed.example", "MX"): ("0 .", "10 a.mx.example."),
    ("aonly.example", "A"): ("192.0.2.9",),
    ("sixonly.example", "AAAA"): ("2001:db8::9",),
    ("silent.example", "TXT"): ("",),
    ("a.mx.example", "A"): ("192.0.2.1", "192.0.2.2"),
    ("b.mx.example", "A"): ("192.0.2.3",),
    ("b.mx.example", "AAAA"): ("2001:db8::3",),
    ("even.example", "MX"): tuple(f"10 mx{n}.even.example." for n in range(4)),
    ("hollow.example", "MX"): ("10 gone.example.",),
} | {(f"mx{n}.even.example", "A"): (f"192.0.2.10{n}",) for n in range(4)}


@pytest.fixture
def table():
    return Table(RECORDS)


@pytest.fixture
def clock():
    return TurnedClock()


@pytest.fixture
def sites(table, clock):
    return SiteResolver(table, clock, Random(1), Providers())


async def test_domains_roll_up(sites):
    """Two domains with the same MX hosts are one site."""
    assert await sites.site_of("two.example") == await sites.site_of("too.example")


async def test_preference_order(sites):
    """The most preferred host comes first."""
    site = await sites.site_of("two.example")
    assert site.hosts == (("a.mx.example",), ("b.mx.example",))


async def test_null_mx(sites):
    """A lone dot as MX means that the domain takes no mail (RFC 7505)."""
    assert await sites.site_of("null.example") == NullMx()


async def test_null_mx_beside_others(sites):
    """A lone dot beside real hosts is passed over."""
    assert (await sites.site_of("mixed.example")).hosts == (("a.mx.example",),)


@pytest.mark.parametrize("domain", ["aonly.example", "sixonly.example"])
async def test_implicit_mx(sites, domain):
    """A domain with an address and no MX is its own host (RFC 5321 section 5.1)."""
    site = await sites.site_of(domain)
    assert (site.name, site.hosts) == (domain, ((domain,),))


@pytest.mark.parametrize("domain", ["missing.example", "silent.example", "[192.0.2.1]", "nodots"])
async def test_nowhere_to_send(sites, domain):
    """Absent domains, domains without mail hosts and names that are none end a message."""
    assert isinstance(await sites.site_of(domain), NoDomain)


async def test_address_literals_ask_nobody(sites, table):
    """An address literal costs no query."""
    await sites.site_of("[192.0.2.1]")
    assert table.asked == []


async def test_failure_is_temporary(sites, table):
    """A nameserver's failure says nothing about the domain."""
    table.failing.add("two.example")
    assert await sites.site_of("two.example") == TempFail("MX of two.example: SERVFAIL")


async def test_failure_is_forgotten_soon(sites, table, clock):
    """A failure is asked about again within seconds."""
    table.failing.add("two.example")
    await sites.site_of("two.example")
    table.failing.clear()
    clock.time += 11
    assert isinstance(await sites.site_of("two.example"), Site)


async def test_one_query_for_many(sites, table):
    """A hundred who ask at once cost one query."""
    table.gate = asyncio.Event()
    asking = [asyncio.create_task(sites.site_of("two.example")) for _ in range(100)]
    await asyncio.sleep(0)
    table.gate.set()
    await asyncio.gather(*asking)
    assert table.asked == [("two.example", "MX")]


async def test_a_cancelled_asker_spoils_nothing(sites, table):
    """The first who asks may give up; the second still gets the answer."""
    table.gate = asyncio.Event()
    first, second = (asyncio.create_task(sites.site_of("two.example")) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    table.gate.set()
    assert isinstance(await second, Site)
    assert len(table.asked) == 1


async def test_cached_until_ttl(sites, table, clock):
    """An answer lasts for its TTL and no longer."""
    await sites.site_of("two.example")
    clock.time += 299
    assert isinstance(sites.cached_site_of("Two.Example"), Site)
    clock.time += 1
    assert sites.cached_site_of("two.example") is None
    await sites.site_of("two.example")
    assert len(table.asked) == 2


async def test_absence_is_cached(sites, table):
    """What does not exist is not asked for twice."""
    await sites.site_of("missing.example")
    await sites.site_of("missing.example")
    assert len(table.asked) == 1


@pytest.mark.parametrize(("ttl", "kept"), [(0, 29), (10**9, 3599)])
async def test_ttl_is_clamped(table, clock, sites, ttl, kept):
    """Neither a TTL of zero nor one of years is obeyed."""
    table.ttl = ttl
    await sites.site_of("two.example")
    clock.time += kept
    assert sites.cached_site_of("two.example") is not None
    clock.time += 1
    assert sites.cached_site_of("two.example") is None


async def test_unknown_is_not_cached(sites):
    """A domain never asked about has no cached answer."""
    assert sites.cached_site_of("two.example") is None


async def test_targets_follow_preference(sites):
    """All addresses of the preferred host come before those of the next."""
    targets = await sites.targets(await sites.site_of("two.example"), 4)
    assert {target.address for target in targets[:2]} == {"192.0.2.1", "192.0.2.2"}
    assert targets[2] == Target("b.mx.example", "192.0.2.3", 25)


async def test_equal_targets_are_shuffled(sites):
    """Equally preferred hosts come first equally often, more or less."""
    site = await sites.site_of("even.example")
    firsts = {(await sites.targets(site, 4))[0].host for _ in range(50)}
    assert firsts == {f"mx{n}.even.example" for n in range(4)}


async def test_targets_of_the_other_family(sites):
    """Targets are of the family asked for."""
    targets = await sites.targets(await sites.site_of("two.example"), 6)
    assert targets == (Target("b.mx.example", "2001:db8::3", 25),)


async def test_no_address_of_this_family(sites):
    """A host that only has the other family says so."""
    assert await sites.targets(await sites.site_of("aonly.example"), 6) == NoAddress(elsewhere=True)


async def test_no_address_at_all(sites):
    """MX hosts that do not exist have no address anywhere."""
    assert await sites.targets(await sites.site_of("hollow.example"), 4) == NoAddress(elsewhere=False)


async def test_a_failing_host_is_left_out(sites, table):
    """One host whose address cannot be found does not hide the others."""
    table.failing.add("a.mx.example")
    targets = await sites.targets(await sites.site_of("two.example"), 4)
    assert [target.host for target in targets] == ["b.mx.example"]


async def test_all_hosts_failing_is_temporary(sites, table):
    """Where no address can be found because of failures, later may be better."""
    table.failing |= {"a.mx.example", "b.mx.example"}
    assert isinstance(await sites.targets(await sites.site_of("two.example"), 4), TempFail)


async def test_many_hosts_are_cut(table, sites):
    """Of a domain with very many MX hosts only the best twenty count."""
    table.records["many.example", "MX"] = tuple(f"{n} mx{n}.many.example." for n in range(50))
    site = await sites.site_of("many.example")
    assert site.hosts[-1] == ("mx19.many.example",)


async def test_route_is_one_site(clock):
    """With a route, every domain is one site at one address."""
    sites = open_sites(clock, Random(1), Providers(), route="127.0.0.1:2525")
    site = await sites.site_of("anything.example")
    assert site.name == site.limit_key == "route"
    assert sites.cached_site_of("other.example") == site
    assert await sites.targets(site, 4) == (Target("127.0.0.1", "127.0.0.1", 2525),)


def test_route_is_an_address(clock):
    """A route by name is refused, since no nameserver is asked."""
    with pytest.raises(ValueError, match="localhost"):
        open_sites(clock, Random(1), Providers(), route="localhost:25")


async def test_the_cache_is_bounded(clock):
    """Beyond its size the cache forgets what was used least recently."""

    async def fetch(key: str) -> Lasting[str]:
        return Lasting(key.upper(), 2000.0)

    cache = AnswerCache(fetch, clock, size=2)
    for key in ("a", "b", "a", "c"):
        await cache.get(key)
    assert [cache.fresh(key) is not None for key in ("a", "b", "c")] == [True, False, True]

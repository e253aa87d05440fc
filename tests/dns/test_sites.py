from __future__ import annotations

import pytest

from postfleet.dns.answers import MxHosts
from postfleet.dns.sites import MAX_NAME, BadDomain, domain_name, site_name, site_of_hosts
from postfleet.providers import Providers


@pytest.mark.parametrize(
    ("hosts", "name"),
    [
        (["mx.a.example"], "mx.a.example"),
        (["mx2.a.example", "mx1.a.example"], "(mx1|mx2).a.example"),
        (["mx1.a.example", "mx1.b.example"], "(mx1.a|mx1.b).example"),
        (["mx.a.example", "a.example"], "(a|mx.a).example"),
        (["mx.a.example", "mx.b.test"], "(mx.a.example|mx.b.test)"),
        (["a.mx.a.example", "a.example", "b.a.example"], "(a|a.mx.a|b.a).example"),
    ],
)
def test_names_are_readable(hosts, name):
    """A site's name lists its hosts with their common end written once."""
    assert site_name(hosts) == name


def test_long_names_are_cut():
    """A site of many hosts has a short name, which still depends on all of them."""
    hosts = [f"very-long-host-name-{n}.mail.a.example" for n in range(20)]
    name = site_name(hosts)
    assert len(name) <= MAX_NAME
    assert name.endswith(".mail.a.example")
    assert name != site_name([*hosts, "one-more.mail.a.example"])


def test_same_hosts_same_site():
    """Domains with the same MX hosts share a site, whatever their preferences; each keeps its own order."""
    one = site_of_hosts(MxHosts(((10, "a.m.example"), (20, "b.m.example"))), Providers())
    other = site_of_hosts(MxHosts(((5, "b.m.example"), (7, "a.m.example"))), Providers())
    assert one.name == other.name
    assert one.limit_key == other.limit_key
    assert (one.hosts, other.hosts) == ((("a.m.example",), ("b.m.example",)), (("b.m.example",), ("a.m.example",)))


def test_ties_are_grouped():
    """Equally preferred hosts stand together."""
    mx = MxHosts(((5, "a.m.example"), (10, "b.m.example"), (10, "c.m.example")))
    assert site_of_hosts(mx, Providers()).hosts == (("a.m.example",), ("b.m.example", "c.m.example"))


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Example.COM", "example.com"),
        ("bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("under_score.example", "under_score.example"),
    ],
)
def test_domains_become_a_labels(given, name):
    """Domains are asked for as A-labels in lower case."""
    assert domain_name(given) == name


@pytest.mark.parametrize(
    "domain",
    [
        *("[192.0.2.1]", "[IPv6:::1]", "192.0.2.1"),
        *("localhost", "", ".", "a..example", "a.example.", "a b.example", "a\\.example"),
        *("x" * 64 + ".example", ".".join(["x" * 60] * 5), "\N{ZERO WIDTH JOINER}.example"),
    ],
)
def test_what_is_no_domain(domain):
    """Address literals, single labels and malformed names are refused."""
    with pytest.raises(BadDomain):
        domain_name(domain)

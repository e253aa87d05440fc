from __future__ import annotations

import asyncio

import dns.flags
import dns.message
import dns.rcode
import dns.rrset
import pytest
import uvloop
from support.dns_fakes import scripted_nameserver

from postfleet.dns import QueryFailed, Reply
from postfleet.dns.query import Nameservers
from sandbox.nameserver import Authority, start_nameserver

RECORDS = {
    ("many.example", "MX"): tuple(f"10 a-rather-long-host-name-{n}.many.example." for n in range(60)),
    ("mx.example", "CNAME"): ("real.example.",),
    ("real.example", "A"): ("127.1.1.1",),
}


async def ask(name: str, rdtype: str, script, timeout: float = 5.0) -> Reply:
    async with scripted_nameserver(script) as port:
        return await Nameservers([("127.0.0.1", port)], timeout)(name, rdtype)


def refusing(rcode: dns.rcode.Rcode):
    def script(query):
        response = dns.message.make_response(query)
        response.set_rcode(rcode)
        return [response.to_wire()]

    return script


def answered(query, text: str) -> bytes:
    response = dns.message.make_response(query)
    response.answer.append(dns.rrset.from_text("a.example.", 60, "IN", "A", text))
    return response.to_wire()


@pytest.fixture
async def nameserver():
    server = await start_nameserver("127.0.0.1", 0, Authority(RECORDS))
    yield Nameservers([("127.0.0.1", server.port)])
    server.close()


async def test_cut_answers_are_fetched_by_tcp(nameserver):
    """An answer too long for a datagram arrives whole."""
    assert len((await nameserver("many.example", "MX")).records) == 60


async def test_aliases_are_followed(nameserver):
    """An MX host that is an alias has the addresses of its target."""
    assert await nameserver("mx.example", "A") == Reply(True, ("127.1.1.1",), 300)


async def test_absent_names(nameserver):
    """A name that does not exist is told from one without such records, each with its negative TTL."""
    assert await nameserver("no.example", "A") == Reply(False, (), 60)
    assert await nameserver("real.example", "MX") == Reply(True, (), 60)


def test_uvloop():
    """Queries work on uvloop, by UDP and by TCP."""

    async def both() -> tuple[int, int]:
        server = await start_nameserver("127.0.0.1", 0, Authority(RECORDS))
        query = Nameservers([("127.0.0.1", server.port)])
        try:
            small, large = await query("real.example", "A"), await query("many.example", "MX")
        finally:
            server.close()
        return len(small.records), len(large.records)

    assert uvloop.run(both()) == (1, 60)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED])
async def test_failures_are_told(rcode):
    """SERVFAIL and REFUSED are failures that name the nameserver and what it said."""
    with pytest.raises(QueryFailed, match=f"said {dns.rcode.to_text(rcode)}"):
        await ask("a.example", "A", refusing(rcode))


async def test_silence():
    """A nameserver that never answers is given up after two tries."""
    asked = []
    with pytest.raises(QueryFailed, match=r"did not answer within 0\.05 s"):
        await ask("a.example", "A", lambda query: asked.append(query) or [], timeout=0.05)
    assert len(asked) == 2


async def test_lost_answers_are_asked_for_again():
    """One lost datagram does not fail a query."""
    queries = []

    def script(query):
        queries.append(query)
        return [answered(query, "192.0.2.1")] if len(queries) == 2 else []

    assert (await ask("a.example", "A", script, timeout=0.2)).records == ("192.0.2.1",)


async def test_lame_referral():
    """A referral is a failure, not the absence of records."""

    def script(query):
        response = dns.message.make_response(query)
        response.authority.append(dns.rrset.from_text("example.", 60, "IN", "NS", "ns.elsewhere.example."))
        return [response.to_wire()]

    with pytest.raises(QueryFailed, match="refers to others"):
        await ask("a.example", "MX", script)


async def test_forged_and_broken_datagrams_are_passed_over():
    """Garbage and answers with another id do not stop the true answer."""

    def script(query):
        forged = dns.message.make_query("a.example", "A")
        forged.id = query.id ^ 1
        return [b"garbage", answered(forged, "192.0.2.66"), answered(query, "192.0.2.1")]

    assert (await ask("a.example", "A", script)).records == ("192.0.2.1",)


async def test_the_next_nameserver_is_asked():
    """A failing nameserver hands over to the next."""
    async with (
        scripted_nameserver(refusing(dns.rcode.SERVFAIL)) as bad,
        scripted_nameserver(lambda query: [answered(query, "192.0.2.1")]) as good,
    ):
        query = Nameservers([("127.0.0.1", bad), ("127.0.0.1", good)])
        assert (await query("a.example", "A")).records == ("192.0.2.1",)


async def test_malformed_names_fail():
    """A name that cannot be put into a question is a failure, not a crash."""
    with pytest.raises(QueryFailed):
        await ask("a" * 64 + ".example", "A", lambda query: [])


async def test_nobody_there():
    """Where nothing listens, the query fails in time."""
    async with scripted_nameserver(lambda query: []) as port:
        pass
    with pytest.raises(QueryFailed):
        await asyncio.wait_for(Nameservers([("127.0.0.1", port)], timeout=0.05)("a.example", "A"), 5)

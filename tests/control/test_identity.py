"""The fleet controller's look at A and PTR records."""

from __future__ import annotations

import pytest
from support.dns_fakes import Table, TurnedClock

from control.identity import Identities
from postfleet.directory import Binding
from postfleet.dns.query import Nameservers
from postfleet.dns.resolver import Resolver
from sandbox.nameserver import start_nameserver
from sandbox.world import SOURCES

ONE = Binding("one", "192.0.2.1", "out1.example")
PTR = "1.2.0.192.in-addr.arpa"


class Looking:
    def __init__(self) -> None:
        self.clock = TurnedClock()
        self.table = Table({(PTR, "PTR"): ("out1.example.",), ("out1.example", "A"): ("192.0.2.1",)})
        self.identities = Identities(Resolver(self.table, self.clock))

    async def later(self) -> str:
        """When every answer has been forgotten."""
        self.clock.time += 10_000
        return await self.identities.objection(ONE)


@pytest.fixture
def looking() -> Looking:
    return Looking()


async def test_a_binding_that_the_dns_confirms_may_send(looking: Looking) -> None:
    """A and PTR agree: no objection."""
    assert await looking.later() == ""


async def test_a_changed_record_stops_it(looking: Looking) -> None:
    """Once a PTR record names another host, the binding may not send, and may again when it is put right."""
    looking.table.records[PTR, "PTR"] = ("mail.example.",)
    assert "names mail.example, not out1.example" in await looking.later()
    looking.table.records[PTR, "PTR"] = ("out1.example.",)
    assert await looking.later() == ""


async def test_a_silent_dns_changes_nothing(looking: Looking) -> None:
    """What was known stays while nobody answers; where nothing was known, the binding waits."""
    looking.table.failing.add(PTR)
    assert "not known yet" in await looking.later()
    looking.table.failing.clear()
    assert await looking.later() == ""
    looking.table.failing.add("out1.example")
    assert await looking.later() == ""


async def test_the_sandbox_confirms_its_own_sources() -> None:
    """Over the wire: the sandbox's nameserver agrees with each of its sources, and not with a stranger's name."""
    server = await start_nameserver("127.0.0.1", 0)
    try:
        identities = Identities(Resolver(Nameservers([("127.0.0.1", server.port)]), TurnedClock()))
        for ip, name in SOURCES.items():
            assert await identities.objection(Binding(ip, ip, name)) == ""
            assert "PTR of" in await identities.objection(Binding(ip, ip, "mail.example"))
    finally:
        server.close()

"""A clock to turn, a table of records to ask, and a UDP nameserver that does as it is told."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import asynccontextmanager

import dns.message

from postfleet.dns import QueryFailed, Reply


class TurnedClock:
    def __init__(self) -> None:
        self.time = 1000.0

    def now(self) -> float:
        return self.time

    def mono(self) -> float:
        return self.time


class Table:
    """A `Query` over (name, type) -> records, that notes what it was asked. Names without records do not exist."""

    def __init__(self, records: Mapping[tuple[str, str], tuple[str, ...]], ttl: float = 300.0) -> None:
        self.records = dict(records)
        self.ttl = ttl
        self.failing: set[str] = set()
        self.asked: list[tuple[str, str]] = []
        self.gate: asyncio.Event | None = None

    async def __call__(self, name: str, rdtype: str) -> Reply:
        self.asked.append((name, rdtype))
        if self.gate is not None:
            await self.gate.wait()
        if name in self.failing:
            raise QueryFailed("SERVFAIL")
        exists = any(owner == name for owner, _ in self.records)
        return Reply(exists, self.records.get((name, rdtype), ()), self.ttl)


Script = Callable[[dns.message.Message], list[bytes]]
"""Query -> the datagrams to send back."""


@asynccontextmanager
async def scripted_nameserver(script: Script):
    """Yields the port of a UDP nameserver on 127.0.0.1."""

    class Datagrams(asyncio.DatagramProtocol):
        def connection_made(self, transport) -> None:
            self.transport = transport

        def datagram_received(self, data: bytes, addr) -> None:
            for answer in script(dns.message.from_wire(data)):
                self.transport.sendto(answer, addr)

    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    try:
        yield transport.get_extra_info("sockname")[1]
    finally:
        transport.close()

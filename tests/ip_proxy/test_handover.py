"""One proxy takes over from another, both in the test's loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.eventually import eventually

from ip_proxy.access import Access
from ip_proxy.handover import Handover, Predecessor, take_over
from ip_proxy.listener import open_listener
from ip_proxy.proxy import Proxy, Timing
from postfleet.clock import SystemClock
from postfleet.socks.client import Refused
from postfleet.socks.wire import Reply

KEY = b"k" * 32
SOURCE = "127.0.0.21"
QUICK = Timing(limit_wait=0.3, linger=0.2)


class Generation:
    """One version of the proxy."""

    def __init__(self, proxy: Proxy, handover: Handover) -> None:
        self.proxy, self.handover = proxy, handover
        self.task = asyncio.create_task(handover.run())

    async def die(self) -> None:
        """As a process does: every socket closes."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        if not self.proxy.draining:
            self.proxy.draining = True
            self.proxy.listener.close()
        for predecessor in self.proxy.predecessors:
            predecessor._task.cancel()
        for session in list(self.proxy.sessions):
            session._transport.abort()

    def open(self) -> int:
        return self.proxy.stats[SOURCE].open


async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A target that speaks first and stays as long as its client."""
    writer.write(b"220 hello\n")
    await reader.read()
    writer.close()


Start = Callable[[], "asyncio.Future[Generation]"]


@pytest.fixture
async def start(bench, tmp_path: Path) -> AsyncIterator[Start]:
    running: list[Generation] = []
    path = tmp_path / "proxy.sock"

    async def start() -> Generation:
        inherited = await take_over(path)
        sock = inherited.sockets[0] if inherited else open_listener("127.0.0.1", 0)
        bench.address = sock.getsockname()
        proxy = Proxy(sock, Access(KEY, {SOURCE: SOURCE}, frozenset(bench.ports), True), QUICK, SystemClock())
        if inherited:
            Predecessor(proxy, inherited)
        running.append(Generation(proxy, Handover(path, proxy, (proxy.listener,))))
        bench.proxies.append(proxy)
        await eventually(path.exists)
        await asyncio.sleep(0)
        return running[-1]

    yield start
    for generation in running:
        await generation.die()


async def test_the_new_one_serves_and_the_old_one_ends_with_its_last_session(bench, start: Start) -> None:
    """New connections go through the successor; an open one stays where it is, and its process ends after it."""
    port = await bench.start_target(hold)
    old = await start()
    line = await bench.open(bench.claims(port))
    new = await start()
    other = await bench.open(bench.claims(port))
    assert (old.open(), new.open()) == (1, 1)
    assert not old.task.done()
    assert await line.read_line() == b"220 hello\n"
    await line.close()
    await asyncio.wait_for(old.task, 5)
    await other.close()


async def test_what_is_open_at_the_old_one_counts_at_the_new_one(bench, start: Start) -> None:
    """At a limit of two, one connection at each is all; a close at the old one makes room at the new one."""
    port = await bench.start_target(hold)
    await start()
    claims = bench.claims(port, max_connections=2)
    first = await bench.open(claims)
    new = await start()
    second = await bench.open(claims)
    refused = await bench.dial(claims)
    assert isinstance(refused, Refused)
    assert refused.code == Reply.AT_LIMIT
    await first.close()
    await eventually(lambda: not new.proxy.predecessors or not any(each.open for each in new.proxy.predecessors))
    third = await bench.open(claims)
    await second.close()
    await third.close()


async def test_a_client_that_waits_at_the_old_one_gets_the_next_place(bench, start: Start) -> None:
    """Whoever stood in line when the hand-over came is served in its turn, before those who came after."""
    port = await bench.start_target(hold)
    old = await start()
    claims = bench.claims(port, max_connections=1)
    first = await bench.open(claims)
    waiting = asyncio.create_task(bench.dial(claims))
    await eventually(lambda: len(old.proxy.sessions) == 2)
    await asyncio.sleep(0.02)
    new = await start()
    later = asyncio.create_task(bench.dial(claims))
    await eventually(lambda: len(new.proxy.sessions) == 1)
    await first.close()
    served = await waiting
    assert not isinstance(served, Refused)
    assert isinstance(await later, Refused)
    await served.close()


async def test_a_waiting_client_that_gives_up_leaves_no_trace(bench, start: Start) -> None:
    """A client at the old one that waited in vain is told so, and its place in the new one's line is gone."""
    port = await bench.start_target(hold)
    old = await start()
    claims = bench.claims(port, max_connections=1)
    first = await bench.open(claims)
    waiting = asyncio.create_task(bench.dial(claims))
    await eventually(lambda: len(old.proxy.sessions) == 2)
    await start()
    assert isinstance(await waiting, Refused)
    await first.close()
    last = await bench.open(claims)
    await last.close()


async def test_the_old_one_is_the_owner_again_when_the_new_one_dies(bench, start: Start) -> None:
    """A successor that dies costs nothing: the old one accepts again, and counts what it has open."""
    port = await bench.start_target(hold)
    old = await start()
    claims = bench.claims(port, max_connections=2)
    first = await bench.open(claims)
    new = await start()
    await (await bench.open(claims)).close()
    await new.die()
    await eventually(lambda: not old.handover.done)
    second = await bench.open(claims)
    assert old.open() == 2
    assert isinstance(await bench.dial(claims), Refused)
    third = await start()
    assert isinstance(await bench.dial(claims), Refused)
    await first.close()
    await second.close()
    await asyncio.wait_for(old.task, 5)
    assert third.open() == 0


async def test_three_generations_count_together(bench, start: Start) -> None:
    """A place that the first one holds is reported through the second to the third."""
    port = await bench.start_target(hold)
    claims = bench.claims(port, max_connections=2)
    first = await start()
    one = await bench.open(claims)
    second = await start()
    two = await bench.open(claims)
    await start()
    assert isinstance(await bench.dial(claims), Refused)
    await one.close()
    await asyncio.wait_for(first.task, 5)
    three = await bench.open(claims)
    await two.close()
    await asyncio.wait_for(second.task, 5)
    await three.close()


async def test_the_rate_goes_on_at_the_new_one(bench, start: Start) -> None:
    """Connections that began a moment ago at the old one count against the minute at the new one."""
    port = await bench.start_target(hold)
    claims = bench.claims(port, connections_per_minute=2)
    await start()
    line = await bench.open(claims)
    await start()
    refused = await bench.dial(claims)
    assert isinstance(refused, Refused)
    assert refused.wait_seconds > 20
    await line.close()


async def test_the_socket_is_for_its_owner_alone(start: Start, tmp_path: Path) -> None:
    """Nobody else may take the addresses over."""
    await start()
    assert (tmp_path / "proxy.sock").stat().st_mode & 0o777 == 0o600


async def test_nobody_to_take_over_from(tmp_path: Path) -> None:
    """Where no proxy waits there is nothing to inherit."""
    assert await take_over(tmp_path / "proxy.sock") is None

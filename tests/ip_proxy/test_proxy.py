"""The proxy with real sockets, in the test's own loop."""

from __future__ import annotations

import asyncio
import os
import socket

import pytest

from ip_proxy.proxy import Timing
from postfleet.socks.client import Refused, first_bytes
from postfleet.socks.token import sign
from postfleet.socks.wire import Reply

KEY = b"k" * 32
QUICK = Timing(limit_wait=0.05, linger=0.2, handshake=0.2, idle=0.2)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An SMTP-like peer: speaks first, echoes lines, says goodbye at EOF."""
    writer.write(b"220 hello\n")
    while line := await reader.readline():
        writer.write(line)
    writer.write(b"221 bye\n")
    writer.close()


class Sink:
    """Counts its own open connections, as an MX does, and closes slowly."""

    def __init__(self, close_after: float = 0.0) -> None:
        self.open = self.most = self.total = 0
        self.close_after = close_after
        self.peers: set[str] = set()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.open += 1
        self.total += 1
        self.most = max(self.most, self.open)
        self.peers.add(writer.get_extra_info("peername")[0])
        writer.write(b"220 hello\n")
        await reader.read()
        await asyncio.sleep(self.close_after)
        self.open -= 1
        writer.close()


async def test_bytes_pass_both_ways_from_the_source_address(bench) -> None:
    """The target's banner arrives, lines are echoed, and the target sees the source address."""
    sink = Sink()
    port = await bench.start_target(sink)
    bench.start_proxy()
    line = await bench.open(bench.claims(port))
    assert await line.read_line() == b"220 hello\n"
    assert sink.peers == {"127.0.0.21"}


async def test_early_bytes_reach_the_target(bench) -> None:
    """What follows CONNECT in the same write goes to the target."""
    port = await bench.start_target(echo)
    bench.start_proxy()
    line = await bench.open(bench.claims(port), early=b"EHLO early\n")
    assert [await line.read_line(), await line.read_line()] == [b"220 hello\n", b"EHLO early\n"]


async def test_early_bytes_of_a_client_that_then_vanishes_are_no_trap(bench) -> None:
    """A client that sends all and is gone leaves no session and no place taken."""
    sink = Sink()
    port = await bench.start_target(sink)
    proxy = bench.start_proxy()
    claims = bench.claims(port)
    for _ in range(20):
        _, writer = await asyncio.open_connection(*bench.address[:2])
        writer.write(first_bytes(claims.source, sign(KEY, claims), claims.host, claims.port) + b"x" * 100_000)
        writer.transport.abort()
    await bench.idle()
    assert (proxy.stats["127.0.0.21"].open, sink.open) == (0, 0)


async def test_half_close_lets_the_answer_through(bench) -> None:
    """A client that ends its side still reads what the target says, then EOF."""
    port = await bench.start_target(echo)
    bench.start_proxy()
    line = await bench.open(bench.claims(port))
    line.writer.write(b"QUIT\n")
    line.writer.write_eof()
    assert [await line.read_line() for _ in range(4)] == [b"220 hello\n", b"QUIT\n", b"221 bye\n", b""]


async def test_the_last_words_of_a_target_that_closes_arrive(bench) -> None:
    """A 421 and close reaches a client that keeps sending."""

    async def busy(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"421 busy\n")
        writer.close()

    port = await bench.start_target(busy)
    proxy = bench.start_proxy()
    line = await bench.open(bench.claims(port), early=b"EHLO x\n")
    line.writer.write(b"MAIL FROM:<>\n")
    assert [await line.read_line(), await line.read_line()] == [b"421 busy\n", b""]
    await line.close()
    await bench.idle()
    assert proxy.stats["127.0.0.21"].open == 0


async def test_a_large_transfer_arrives_whole(bench) -> None:
    """Four megabytes pass through a slow reader unharmed."""
    received = bytearray()
    done = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(100_000):
            received.extend(data)
            await asyncio.sleep(0)
        writer.close()
        done.set()

    port = await bench.start_target(slow)
    bench.start_proxy()
    line = await bench.open(bench.claims(port))
    payload = os.urandom(4_000_000)
    line.writer.write(payload)
    line.writer.write_eof()
    await asyncio.wait_for(done.wait(), 10)
    assert bytes(received) == payload


async def test_a_target_that_does_not_read_stops_the_client(bench) -> None:
    """Back-pressure: the proxy holds little of what the target does not take."""

    async def deaf(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        reader._transport.pause_reading()

    port = await bench.start_target(deaf)
    proxy = bench.start_proxy(Timing(idle=1.0))
    line = await bench.open(bench.claims(port))
    line.writer.write(b"x" * 50_000_000)
    moved = -1
    while moved != proxy.stats["127.0.0.21"].bytes_to_target:
        moved = proxy.stats["127.0.0.21"].bytes_to_target
        await asyncio.sleep(0.2)
    assert 0 < moved < 20_000_000


@pytest.mark.parametrize("changes", [{"port": 1}, {"host": "127.0.0.2"}, {"expires": 1}, {"source": "127.0.0.22"}])
async def test_a_token_opens_only_what_it_names(bench, changes: dict[str, object]) -> None:
    """The token of one connection is refused for another target, source or time."""
    port = await bench.start_target(echo)
    bench.start_proxy(sources={"127.0.0.21": "127.0.0.21", "127.0.0.22": "127.0.0.22"})
    token = sign(KEY, bench.claims(port, **changes))
    refused = await bench.send(first_bytes("127.0.0.21", token, "127.0.0.1", port))
    assert refused == Refused(Reply.NOT_ALLOWED, "not allowed by the proxy")


async def test_a_source_that_cannot_be_bound_fails_closed(bench) -> None:
    """Reply code 1, no connection from any other address."""
    sink = Sink()
    port = await bench.start_target(sink)
    proxy = bench.start_proxy(sources={"127.0.0.21": "192.0.2.77"})
    refused = await bench.dial(bench.claims(port))
    assert isinstance(refused, Refused)
    assert refused.code == Reply.GENERAL_FAILURE
    assert sink.total == 0
    assert proxy.stats["127.0.0.21"].refused == {"source_unusable": 1}


async def test_an_elastic_address_is_bound_by_its_local_one(bench) -> None:
    """The token names the public address, the target sees the local one."""
    sink = Sink()
    port = await bench.start_target(sink)
    bench.start_proxy(sources={"198.51.100.9": "127.0.0.33"})
    await bench.open(bench.claims(port, source="198.51.100.9"))
    assert sink.peers == {"127.0.0.33"}


async def test_a_refused_connection_has_its_code(bench) -> None:
    """ECONNREFUSED of the target is code 5, and frees its place."""
    port = await bench.start_target(echo)
    bench.start_proxy()
    bench.servers.pop().close()
    for _ in range(3):
        refused = await bench.dial(bench.claims(port, max_connections=1))
        assert isinstance(refused, Refused)
        assert refused.code == Reply.CONNECTION_REFUSED


async def test_a_target_that_does_not_answer_times_out(bench) -> None:
    """A connect that takes too long is code 6."""
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        bench.start_proxy(Timing(connect=0.1), ports=frozenset({port}))
        results = [await bench.dial(bench.claims(port)) for _ in range(4)]
    assert [r.code for r in results if isinstance(r, Refused)][-1] == Reply.TIMED_OUT


async def test_the_target_never_counts_more_than_the_limit(bench) -> None:
    """Twenty clients that come and go, slow closes, a limit of two: never three at the target's own count."""
    sink = Sink(close_after=0.02)
    port = await bench.start_target(sink)
    bench.start_proxy(Timing(limit_wait=5))
    claims = bench.claims(port, max_connections=2)

    async def visit(number: int) -> None:
        line = await bench.open(claims)
        if number % 2:
            line.writer.transport.abort()
        else:
            await line.close()

    await asyncio.gather(*map(visit, range(20)))
    await bench.idle()
    assert (sink.total, sink.most) == (20, 2)


async def test_limits_of_other_keys_are_apart(bench) -> None:
    """A full limit key does not hold up another."""
    port = await bench.start_target(Sink())
    bench.start_proxy(QUICK)
    await bench.open(bench.claims(port, max_connections=1))
    await bench.open(bench.claims(port, max_connections=1, limit_key="other"))


async def test_at_the_limit_a_wait_is_suggested(bench) -> None:
    """After waiting in line in vain the client is sent away with reply 0x80 and a time."""
    port = await bench.start_target(Sink())
    bench.start_proxy(QUICK)
    claims = bench.claims(port, max_connections=1)
    await bench.open(claims)
    refused = await bench.dial(claims)
    assert isinstance(refused, Refused)
    assert refused.code == Reply.AT_LIMIT
    assert 0.1 <= refused.wait_seconds <= 60


async def test_a_place_that_frees_goes_to_who_waits(bench) -> None:
    """A client in line gets in when the connection before it has closed."""
    port = await bench.start_target(Sink())
    bench.start_proxy(Timing(limit_wait=5))
    claims = bench.claims(port, max_connections=1)
    first = await bench.open(claims)
    waiting = asyncio.create_task(bench.open(claims))
    await asyncio.sleep(0.02)
    assert not waiting.done()
    await first.close()
    await waiting


async def test_a_client_that_gives_up_in_line_takes_no_place(bench) -> None:
    """The place of a client that vanished while waiting goes to the next, without a dial."""
    sink = Sink()
    port = await bench.start_target(sink)
    bench.start_proxy(Timing(limit_wait=5))
    claims = bench.claims(port, max_connections=1)
    first = await bench.open(claims)
    password = sign(KEY, claims)
    _, vanishing = await asyncio.open_connection(*bench.address[:2])
    vanishing.write(first_bytes(claims.source, password, claims.host, claims.port))
    await asyncio.sleep(0.02)
    vanishing.transport.abort()
    last = asyncio.create_task(bench.open(claims))
    await first.close()
    await last
    assert (sink.most, sink.total) == (1, 2)


async def test_a_target_that_ignores_a_vanished_client_is_reset(bench) -> None:
    """The place is kept until the target closes, but no longer than the linger time."""
    ended = asyncio.Event()

    async def stubborn(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\n")
        await reader.read()
        ended.set()
        await asyncio.sleep(30)

    port = await bench.start_target(stubborn)
    proxy = bench.start_proxy(Timing(limit_wait=0.05, linger=0.3))
    claims = bench.claims(port, max_connections=1)
    line = await bench.open(claims)
    line.writer.transport.abort()
    await ended.wait()
    assert proxy.stats["127.0.0.21"].open == 1
    refused = await bench.dial(claims)
    assert isinstance(refused, Refused)
    async with asyncio.timeout(5):
        while isinstance(await bench.dial(claims), Refused):
            pass
    assert proxy.stats["127.0.0.21"].open == 1


async def test_a_connection_without_progress_ends(bench) -> None:
    """Without a byte in the idle time both connections are closed and counted."""
    port = await bench.start_target(Sink())
    proxy = bench.start_proxy(QUICK)
    line = await bench.open(bench.claims(port))
    await line.read_line()
    with pytest.raises(ConnectionResetError):
        await line.read_line()
    await bench.idle()
    assert proxy.stats["127.0.0.21"].timed_out == 1


async def test_progress_keeps_a_connection(bench) -> None:
    """A byte now and then keeps the connection past its idle time."""
    port = await bench.start_target(echo)
    bench.start_proxy(Timing(idle=0.2))
    line = await bench.open(bench.claims(port))
    await line.read_line()
    for _ in range(8):
        line.writer.write(b"NOOP\n")
        assert await line.read_line() == b"NOOP\n"
        await asyncio.sleep(0.06)


@pytest.mark.parametrize("start", [b"", b"\x05", b"\x05\x01\x02\x01\x20"])
async def test_a_slow_handshake_is_cut(bench, start: bytes) -> None:
    """A client that does not finish its handshake in time is closed without an answer beyond the steps done."""
    proxy = bench.start_proxy(QUICK)
    with pytest.raises(ConnectionError):
        await bench.send(start)
    assert not proxy.sessions


async def test_garbage_is_closed(bench) -> None:
    """Another protocol is closed at once and counted."""
    proxy = bench.start_proxy()
    with pytest.raises(ConnectionError):
        await bench.send(b"GET / HTTP/1.1\r\n\r\n")
    assert proxy.rejected == 1


async def test_drain_waits_for_sessions(bench) -> None:
    """Draining refuses new connections, keeps open ones, and ends with the last."""
    port = await bench.start_target(echo)
    proxy = bench.start_proxy()
    line = await bench.open(bench.claims(port))
    draining = asyncio.create_task(proxy.drain())
    await asyncio.sleep(0)
    with pytest.raises(ConnectionRefusedError):
        await bench.dial(bench.claims(port))
    line.writer.write(b"NOOP\n")
    assert [await line.read_line(), await line.read_line()] == [b"220 hello\n", b"NOOP\n"]
    assert not draining.done()
    await line.close()
    await asyncio.wait_for(draining, 5)


async def test_drain_ends_after_its_time(bench) -> None:
    """A session that does not end holds the drain only so long."""
    port = await bench.start_target(echo)
    proxy = bench.start_proxy(Timing(drain=0.05))
    await bench.open(bench.claims(port))
    await asyncio.wait_for(proxy.drain(), 5)
    assert proxy.sessions


async def test_bytes_are_counted_while_a_session_runs(bench) -> None:
    """The counters of a source contain sessions that are still open."""
    port = await bench.start_target(echo)
    proxy = bench.start_proxy()
    line = await bench.open(bench.claims(port))
    line.writer.write(b"NOOP\n")
    await line.read_line()
    await line.read_line()
    stats = proxy.stats["127.0.0.21"]
    assert (stats.bytes_to_target, stats.bytes_to_client) == (5, 15)
    await line.close()
    await bench.idle()
    assert (stats.bytes_to_target, stats.bytes_to_client) == (5, 23)

"""A proxy inside the test's loop, a target that it may reach, and a client of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import msgspec
import pytest
import uvloop
from support.eventually import eventually

from ip_proxy.access import Access
from ip_proxy.listener import open_listener
from ip_proxy.proxy import Proxy, Timing
from postfleet.clock import SystemClock
from postfleet.socks.client import Connected, Refused, SocksClient, first_bytes
from postfleet.socks.token import Claims, sign

KEY = b"k" * 32
SOURCE = "127.0.0.21"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


class Line:
    """A client's connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rest: bytes) -> None:
        self.reader, self.writer, self.rest = reader, writer, rest

    async def read_line(self) -> bytes:
        while b"\n" not in self.rest:
            data = await self.reader.read(4096)
            if not data:
                break
            self.rest += data
        line, newline, self.rest = self.rest.partition(b"\n")
        return line + newline

    async def close(self) -> None:
        self.writer.close()
        await self.writer.wait_closed()


class Bench:
    """Starts proxies and targets, dials, and stops all of it."""

    def __init__(self) -> None:
        self.servers: list[asyncio.Server] = []
        self.proxies: list[Proxy] = []
        self.writers: list[asyncio.StreamWriter] = []
        self.address = ("", 0)

    def start_proxy(self, timing: Timing | None = None, **changes: object) -> Proxy:
        sock = open_listener("127.0.0.1", 0)
        self.address = sock.getsockname()
        access = Access(KEY, {SOURCE: SOURCE}, frozenset(self.ports), allow_loopback=True)
        access = msgspec.structs.replace(access, **changes)
        proxy = Proxy(sock, access, timing or Timing(), SystemClock())
        self.proxies.append(proxy)
        return proxy

    @property
    def ports(self) -> list[int]:
        return [server.sockets[0].getsockname()[1] for server in self.servers]

    async def start_target(self, handler: Handler) -> int:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.writers.append(writer)
            await handler(reader, writer)

        self.servers.append(await asyncio.start_server(handle, "127.0.0.1", 0))
        return self.ports[-1]

    def claims(self, port: int, /, **changes: object) -> Claims:
        claims = Claims(
            source=SOURCE,
            host="127.0.0.1",
            port=port,
            limit_key="site",
            max_connections=10,
            policy_version=1,
            expires=2**40,
        )
        return msgspec.structs.replace(claims, **changes)

    async def dial(self, claims: Claims, early: bytes = b"") -> Line | Refused:
        password = sign(KEY, claims)
        return await self.send(first_bytes(claims.source, password, claims.host, claims.port) + early)

    async def send(self, data: bytes) -> Line | Refused:
        """Raises `ConnectionError` when the proxy closes without an answer."""
        reader, writer = await asyncio.open_connection(*self.address[:2])
        self.writers.append(writer)
        writer.write(data)
        client, result = SocksClient(), None
        while result is None:
            answer = await reader.read(4096)
            if not answer:
                raise ConnectionError("no answer")
            result = client.receive(answer)
        if isinstance(result, Connected):
            return Line(reader, writer, result.rest)
        return result

    async def open(self, claims: Claims, early: bytes = b"") -> Line:
        line = await self.dial(claims, early)
        assert isinstance(line, Line), line
        return line

    async def idle(self) -> None:
        """Until no proxy has a session left."""
        await eventually(lambda: not any(proxy.sessions for proxy in self.proxies))

    async def stop(self) -> None:
        for writer in self.writers:
            writer.transport.abort()
        for server in self.servers:
            server.close()
        for proxy in self.proxies:
            if not proxy.draining:
                await proxy.drain()
        await self.idle()


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    bench = Bench()
    yield bench
    await bench.stop()

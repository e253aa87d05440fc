"""One client, from its greeting to the close of both connections."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, cast

import structlog

from ip_proxy.access import Denied, judge
from ip_proxy.dial import SourceUnusable, dial, reply_code
from ip_proxy.limits import Ticket
from ip_proxy.slots import AtLimit
from ip_proxy.splice import Splice
from postfleet.socks.server import ConnectRequest, Rejected, SocksServer, at_limit, reply
from postfleet.socks.wire import Reply

if TYPE_CHECKING:
    import socket

    from ip_proxy.proxy import Proxy
    from ip_proxy.stats import SourceStats

log = structlog.get_logger()

MOST_EARLY = 64 * 1024
"""Bytes of a client that does not wait for the reply; beyond them it is not read."""


class Session(asyncio.Protocol):
    """The client's connection until it is spliced. A client that ends its side before the reply is gone."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._socks = SocksServer()
        self._task: asyncio.Task[None] | None = None
        self._early = bytearray()
        self._lost = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._deadline = asyncio.get_running_loop().call_later(self._proxy.timing.handshake, self._transport.abort)
        self._proxy.sessions.add(self)

    def data_received(self, data: bytes) -> None:
        if self._task is None:
            self._shake_hands(data)
            return
        self._early += data
        if len(self._early) > MOST_EARLY:
            self._transport.pause_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self._deadline.cancel()
        if self._task is None:
            self._proxy.forget(self)

    def _shake_hands(self, data: bytes) -> None:
        answer, result = self._socks.receive(data)
        self._write(answer)
        if isinstance(result, Rejected):
            self._proxy.rejected += 1
            self._transport.close()
        elif result is not None:
            self._deadline.cancel()
            self._early += result.rest
            self._task = asyncio.create_task(self._serve(result))

    async def _serve(self, request: ConnectRequest) -> None:
        try:
            await self._connect(request)
        except Exception:
            log.exception("session_failed", source=request.username, target=request.host)
            self._transport.abort()
        finally:
            self._proxy.forget(self)

    async def _connect(self, request: ConnectRequest) -> None:
        proxy = self._proxy
        verdict = judge(proxy.access, request, proxy.clock.now())
        if isinstance(verdict, Denied):
            self._refuse(request.username, verdict.label, reply(verdict.code))
            return
        source = verdict.claims.source
        try:
            ticket = await proxy.slots.take(verdict.claims)
        except AtLimit as full:
            self._refuse(source, "at_limit", at_limit(full.suggested_wait))
            return
        sock = None
        try:
            if not self._lost:
                sock = await self._dial(source, verdict.local, request)
        finally:
            if sock is None:
                proxy.slots.give_back(ticket)
        if sock is not None:
            await self._relay(sock, proxy.stats[source], ticket)

    async def _dial(self, source: str, local: str, request: ConnectRequest) -> socket.socket | None:
        """None once the client has been refused."""
        proxy = self._proxy
        try:
            sock = await dial(local, request.host, request.port, proxy.timing.connect)
        except SourceUnusable as error:
            proxy.note_source(source, local, error)
            self._refuse(source, "source_unusable", reply(Reply.GENERAL_FAILURE))
        except OSError as error:
            code = reply_code(error)
            self._refuse(source, code.name.lower(), reply(code))
        else:
            proxy.note_source(source, local, None)
            self._write(reply(Reply.SUCCEEDED, *sock.getsockname()[:2]))
            return sock
        return None

    async def _relay(self, sock: socket.socket, stats: SourceStats, ticket: Ticket) -> None:
        """Until both ends are closed."""
        timing = self._proxy.timing

        def target_closed() -> None:
            stats.open -= 1
            self._proxy.slots.give_back(ticket)

        splice = Splice(self._transport, idle=timing.idle, linger=timing.linger, on_target_closed=target_closed)
        stats.begin(splice)
        try:
            await asyncio.get_running_loop().create_connection(lambda: splice.target, sock=sock)
        except BaseException:
            splice.stop_watching()
            target_closed()
            raise
        self._hand_over(splice)
        await splice.closed.wait()
        stats.end(splice)

    def _hand_over(self, splice: Splice) -> None:
        self._transport.set_protocol(splice.client)
        splice.client.resume_reading()
        splice.send_early(bytes(self._early))
        if self._lost:
            splice.client.connection_lost(None)

    def _refuse(self, source: str, label: str, answer: bytes) -> None:
        self._proxy.count_refusal(source, label)
        self._write(answer)
        self._transport.close()

    def _write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(data)

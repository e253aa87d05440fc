"""SMTP submission: one transmission per message, answered once it is durable (RFC 5321, 6409, 4954)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from ipaddress import ip_network
from typing import Any, Protocol, cast

import msgspec
import structlog
from msgspec import Struct

from ingest.gate import Gate, IPAddress, Refusal, Standing, peer_address
from postfleet.clock import Clock
from postfleet.directory import Directory
from postfleet.ports import StorageError, StoreFull
from postfleet.smtp import events as smtp
from postfleet.smtp.replies import Reply
from postfleet.smtp.server import Server
from postfleet.stages import Submission

log = structlog.get_logger()

SWEEP = 1.0
"""Seconds between looks at the sessions' deadlines."""

CLOSE_TIME = 10.0
"""Seconds that a client has to take the last reply."""

_PEERS = 1024
"""So many clients' addresses are known without being looked at again."""

_FULL = Reply(452, "4.3.1", "Insufficient system storage, try again later")
_UNAVAILABLE = Reply(451, "4.3.0", "The message could not be stored, try again later")
_SHUTDOWN = Reply(421, "4.3.2", "Service shutting down, try again later")
_TOO_MANY = Reply(421, "4.7.0", "Too many connections, try again later")
_TIMEOUT = Reply(421, "4.4.2", "Timeout, closing connection")


class Acceptor(Protocol):
    """`postfleet.accept.Acceptor`, as far as it is used here."""

    def new_id(self) -> str: ...

    def announce(self, client: object) -> None: ...

    def arrived(self, client: object) -> None: ...

    def submit(self, submission: Submission) -> asyncio.Future[None]: ...


class SmtpSettings(Struct, frozen=True, kw_only=True):
    """`trust`: networks whose clients submit without AUTH, as tenant 0. `any_sender`: those need no verified domain."""

    hostname: str
    bounce_domain: str
    """For senders without a sending domain of their own."""
    trust: tuple[str, ...] = ()
    any_sender: bool = False
    max_size: int = 20 * 1024 * 1024
    max_recipients: int = 1000
    max_connections: int = 1000
    idle_time: float = 300.0
    """Seconds without a byte."""
    session_time: float = 1800.0
    """Seconds from the start, or from the last message that was accepted, to the next one."""
    greet_delay: float = 0.0
    """Seconds before the greeting; who talks before it is no mail client."""
    soft_errors: int = 10
    error_delay: float = 1.0
    """Seconds that a reply waits once the client has made `soft_errors` errors."""


class SmtpServer:
    """Listens, and knows its sessions."""

    def __init__(self, *, settings: SmtpSettings, directory: Directory, acceptor: Acceptor, clock: Clock) -> None:
        self.settings = settings
        self.acceptor = acceptor
        self.clock = clock
        self.gate = Gate(
            directory=directory,
            clock=clock,
            hostname=settings.hostname,
            bounce_domain=settings.bounce_domain,
        )
        self.draining = False
        self._trust = tuple([ip_network(network) for network in settings.trust])
        self._public = smtp.ServerConfig(
            hostname=settings.hostname, max_size=settings.max_size, max_recipients=settings.max_recipients
        )
        self._private = msgspec.structs.replace(self._public, auth=("PLAIN", "LOGIN"))
        self._peers: dict[str, tuple[IPAddress, Standing]] = {}
        self._sessions: set[Session] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> int:
        """The port that it listens on; 0 asks for a free one."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Session(self), host, port, backlog=1024)
        self._sweeper = asyncio.create_task(self._sweep_forever())
        port = self._server.sockets[0].getsockname()[1]
        log.info("smtp_listening", host=host, port=port)
        return int(port)

    async def stop(self, grace: float = 30.0) -> None:
        """421 to idle clients at once, to others after their message; after `grace` seconds the rest is cut."""
        self.draining = True
        if self._server is not None:
            self._server.close()
        for session in tuple(self._sessions):
            session.drain()
        try:
            async with asyncio.timeout(grace):
                await self._empty.wait()
        except TimeoutError:
            log.warning("smtp_sessions_cut", sessions=len(self._sessions))
            for session in tuple(self._sessions):
                session.cut()
        if self._sweeper is not None:
            self._sweeper.cancel()

    def sweep(self) -> None:
        """End the sessions whose time is over."""
        now = self.clock.mono()
        for session in tuple(self._sessions):
            session.check_deadlines(now)

    async def _sweep_forever(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            self.sweep()

    def opened(self, session: Session) -> bool:
        """Whether there is room for this session."""
        self._sessions.add(session)
        self._empty.clear()
        return len(self._sessions) <= self.settings.max_connections

    def closed(self, session: Session) -> None:
        self._sessions.discard(session)
        if not self._sessions:
            self._empty.set()

    def config(self, address: IPAddress) -> smtp.ServerConfig:
        """AUTH is offered where nobody can listen to it."""
        return self._private if address.is_loopback else self._public

    def peer(self, host: str) -> tuple[IPAddress, Standing]:
        if host not in self._peers:
            if len(self._peers) >= _PEERS:
                self._peers.clear()
            address = peer_address(host)
            trusted = any(address in network for network in self._trust)
            standing = Standing(0 if trusted else None, checked=not (trusted and self.settings.any_sender))
            self._peers[host] = address, standing
        return self._peers[host]


class Session(asyncio.Protocol):
    """One client. A message that is being stored is stored whatever becomes of the connection."""

    def __init__(self, server: SmtpServer) -> None:
        self._server = server
        self._storing: asyncio.Future[None] | None = None
        self._paused_by_peer = False
        self._paused = False
        self._held = False
        self._eof = False
        self._arriving = False
        """A message has begun: the acceptor has been told."""

    # ------------------------------------------------------------ the transport's calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._address, self._standing = self._server.peer(transport.get_extra_info("peername")[0])
        self._smtp = Server(self._server.config(self._address))
        self._room = self._server.opened(self)
        self._heard = self._since = self._server.clock.mono()
        delay = self._server.settings.greet_delay
        if delay:
            asyncio.get_running_loop().call_later(delay, self._advance)
        else:
            self._advance()

    def data_received(self, data: bytes) -> None:
        self._heard = self._server.clock.mono()
        self._smtp.receive(data)
        self._advance()

    def eof_received(self) -> bool:
        """A client that only stopped sending still gets the reply to its message."""
        self._eof = True
        return self._storing is not None

    def connection_lost(self, error: Exception | None) -> None:
        self._smtp.close()
        self._arrived()
        self._server.closed(self)

    def pause_writing(self) -> None:
        self._paused_by_peer = True
        self._regulate()

    def resume_writing(self) -> None:
        self._paused_by_peer = False
        self._regulate()

    # ------------------------------------------------------------ the server's calls

    def drain(self) -> None:
        """Take no further message."""
        if self._smtp.idle:
            self._end(_SHUTDOWN)

    def cut(self) -> None:
        self._transport.abort()

    def check_deadlines(self, now: float) -> None:
        settings = self._server.settings
        if self._transport.is_closing() and now - self._heard > CLOSE_TIME:
            self.cut()
        elif self._storing is None and (
            now - self._heard > settings.idle_time or now - self._since > settings.session_time
        ):
            self._end(_TIMEOUT)

    # ------------------------------------------------------------ dialogue

    def _advance(self) -> None:
        while (event := self._smtp.next_event()) is not None:
            self._handle(event)
        if self._smtp.idle:
            self._arrived()
            if self._server.draining:
                self._smtp.close(_SHUTDOWN)
        self._write()
        self._regulate()

    def _handle(self, event: smtp.Event) -> None:
        decide = _DECIDED_HERE.get(type(event))
        try:
            if decide is not None:
                decide(self, event)
        except Refusal as refusal:
            self._smtp.reply(refusal.reply)
        else:
            if self._storing is None:
                self._smtp.accept()

    def _connected(self, event: smtp.Connected) -> None:
        if not self._room:
            raise Refusal(_TOO_MANY)

    def _auth(self, event: smtp.Auth) -> None:
        self._standing = self._server.gate.authenticate(event.user, event.password)

    def _mail(self, event: smtp.Mail) -> None:
        if self._server.draining:
            raise Refusal(_SHUTDOWN)
        self._server.gate.check_sender(self._standing, event.sender)
        self._arriving = True
        self._server.acceptor.announce(self)

    def _rcpt(self, event: smtp.Rcpt) -> None:
        self._server.gate.check_recipient(event.address)

    def _store(self, received: smtp.MessageReceived) -> None:
        """Answered once the message is durable, or refused here."""
        transmission = self._server.acceptor.new_id()
        submission = self._server.gate.submission(self._standing, received, transmission, self._trace())
        self._arrived()
        self._storing = self._server.acceptor.submit(submission)
        self._storing.add_done_callback(partial(self._stored, transmission))

    def _stored(self, transmission: str, stored: asyncio.Future[None]) -> None:
        self._storing = None
        self._since = self._heard = self._server.clock.mono()
        error = stored.exception()
        if error is not None and not isinstance(error, StorageError):
            log.error("accept_failed", transmission=transmission, exc_info=error)
        if not self._smtp.closed:
            self._smtp.reply(_outcome(transmission, error))
            self._advance()

    def _arrived(self) -> None:
        """No message is on its way any more."""
        if self._arriving:
            self._arriving = False
            self._server.acceptor.arrived(self)

    def _trace(self) -> str:
        hello = self._smtp.hello
        assert hello is not None
        protocol = ("ESMTPA" if self._smtp.authenticated else "ESMTP") if hello.extended else "SMTP"
        return self._server.gate.client_trace(hello.name, self._address, protocol)

    def _end(self, reply: Reply) -> None:
        self._smtp.close(reply)
        self._write()

    # ------------------------------------------------------------ output

    def _write(self) -> None:
        if self._held or self._transport.is_closing():
            return
        if output := self._smtp.data_to_send():
            settings = self._server.settings
            if self._smtp.errors > settings.soft_errors and not self._smtp.closed:
                self._held = True
                asyncio.get_running_loop().call_later(settings.error_delay, self._release, output)
                return
            self._transport.write(output)
        if self._smtp.closed or (self._eof and self._storing is None):
            self._transport.close()

    def _release(self, output: bytes) -> None:
        self._held = False
        if not self._transport.is_closing():
            self._transport.write(output)
            self._advance()

    def _regulate(self) -> None:
        """Read only what can be worked on."""
        pause = self._held or self._paused_by_peer or self._smtp.congested
        if pause == self._paused or self._transport.is_closing():
            return
        self._paused = pause
        if pause:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


_DECIDED_HERE: dict[type[smtp.Event], Callable[[Session, Any], None]] = {
    smtp.Connected: Session._connected,
    smtp.Auth: Session._auth,
    smtp.Mail: Session._mail,
    smtp.Rcpt: Session._rcpt,
    smtp.MessageReceived: Session._store,
}
"""What may refuse an event, by raising `Refusal`; the rest is accepted as it comes."""


def _outcome(transmission: str, error: BaseException | None) -> Reply:
    if error is None:
        return Reply(250, "2.0.0", f"OK {transmission}")
    return _FULL if isinstance(error, StoreFull) else _UNAVAILABLE

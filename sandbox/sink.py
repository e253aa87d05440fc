"""The MX hosts of the simulated internet. One process takes the mail of all sites and answers as `behaviour` says."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import structlog

from postfleet.evidence import CUT, EOF, QUIT, RESET, TIMEOUT, LedgerConnection, LedgerMessage, LedgerPeak
from postfleet.inbox import Letter
from postfleet.smtp import events as smtp
from postfleet.smtp.replies import Reply
from postfleet.smtp.server import Server
from sandbox.behaviour import Behaviours, FinalDot
from sandbox.inbox import Inbox
from sandbox.ledger import Ledger

IDLE_TIMEOUT = 300.0
SWEEP_EVERY = 5.0
BACKLOG = 1024
CONFIG = smtp.ServerConfig(hostname="mx.sandbox.example", max_size=64 * 1024 * 1024, max_errors=1000)

_GONE = ("", 0)
"""The peer of a connection that was reset before it was accepted has no name."""

_TOO_MANY = Reply(421, "4.7.0", "Too many concurrent SMTP connections from your IP address")
_FULL = Reply(452, "4.3.1", "Insufficient system storage")
_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*(?:\r\n[ \t]+)?(<[^>\r\n]*>)", re.IGNORECASE | re.MULTILINE)

log = structlog.get_logger()


class Sink:
    """All connections of all MX hosts.

    `site_of` names the site of a listening address; other addresses are sites of their own. `limits` bounds the
    connections that a site has open with one peer: past it, they are greeted with 421.
    """

    def __init__(
        self,
        behaviours: Behaviours,
        ledger: Ledger,
        inbox: Inbox,
        *,
        site_of: Mapping[str, str] | None = None,
        limits: Mapping[str, int] | None = None,
        idle_timeout: float = IDLE_TIMEOUT,
    ) -> None:
        self.behaviours = behaviours
        self.ledger = ledger
        self.inbox = inbox
        self._site_of = site_of or {}
        self._limits = limits or {}
        self._idle_timeout = idle_timeout
        self._run = secrets.token_hex(3)
        self._count = 0
        self._connections: set[_Connection] = set()
        self._open: Counter[tuple[str, str]] = Counter()
        self._peaks: Counter[tuple[str, str]] = Counter()
        self._unanswered: list[_Connection] = []
        self._flush_is_due = False

    async def listen(self, addresses: Sequence[str], port: int) -> asyncio.Server:
        """Raises `OSError` where it cannot."""
        self._loop = asyncio.get_running_loop()
        return await self._loop.create_server(lambda: _Connection(self), addresses, port, backlog=BACKLOG)

    async def sweep(self) -> None:
        """Closes connections on which nothing happens. Runs until cancelled."""
        while True:
            await asyncio.sleep(min(SWEEP_EVERY, self._idle_timeout))
            idle_since = time.monotonic() - self._idle_timeout
            for connection in [c for c in self._connections if c.active < idle_since]:
                connection.time_out()

    def close(self) -> None:
        """Cuts all connections and writes the last records."""
        for connection in list(self._connections):
            connection.cut()
            self._ended(connection)
        self._flush()

    # ------------------------------------------------------------ for connections

    def opened(self, connection: _Connection) -> tuple[str, bool]:
        """(the connection's id, whether it may stay)."""
        self._count += 1
        self._connections.add(connection)
        site = self._site_of.get(connection.host, connection.host)
        key = connection.peer, site
        self._open[key] += 1
        if self._open[key] > self._peaks[key]:
            self._peaks[key] = self._open[key]
            self.ledger.add(LedgerPeak(time.time(), *key, self._peaks[key]))
            self._flush_soon()
        return f"{self._run}-{self._count}", self._open[key] <= self._limits.get(site, self._open[key])

    def ended(self, connection: _Connection) -> None:
        if connection in self._connections:
            self._ended(connection)
            self._flush_soon()

    def received(self, connection: _Connection, records: Sequence[LedgerMessage], letter: Letter) -> None:
        """Calls the connection's `stored` or `not_stored` once the fate of these records is known."""
        for record in records:
            self.ledger.add(record)
        self.inbox.add(letter)
        self._unanswered.append(connection)
        self._flush_soon()

    def _ended(self, connection: _Connection) -> None:
        self._connections.remove(connection)
        self._open[connection.peer, self._site_of.get(connection.host, connection.host)] -= 1
        self.ledger.add(connection.record())

    def _flush_soon(self) -> None:
        if not self._flush_is_due:
            self._flush_is_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_is_due = False
        unanswered, self._unanswered = self._unanswered, []
        try:
            self.ledger.flush()
        except OSError as error:
            log.error("ledger_not_written", messages=len(unanswered), error=str(error))
            for connection in unanswered:
                connection.not_stored()
        else:
            for connection in unanswered:
                connection.stored()


class _Connection(asyncio.Protocol):
    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._smtp = Server(CONFIG)
        self._end = ""
        self._messages = 0
        self._sender = ""
        self._final_dot = FinalDot()
        self.active = time.monotonic()

    # ------------------------------------------------------------ transport

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self.peer: str = (transport.get_extra_info("peername") or _GONE)[0]
        self.host: str = transport.get_extra_info("sockname")[0]
        self._id, self._may_stay = self._sink.opened(self)
        self._advance()

    def data_received(self, data: bytes) -> None:
        self.active = time.monotonic()
        self._smtp.receive(data)
        self._advance()
        if self._smtp.congested:
            self._transport.pause_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._end = self._end or (RESET if error else EOF)
        self._smtp.close()
        self._sink.ended(self)

    def record(self) -> LedgerConnection:
        return LedgerConnection(time.time(), self._id, self.peer, self.host, self._end, self._messages)

    # ------------------------------------------------------------ ends

    def cut(self) -> None:
        """Ends the connection without a word."""
        self._end = self._end or CUT
        self._smtp.close()
        self._transport.abort()

    def time_out(self) -> None:
        """With a 421; at once if the connection has been ending since the last time."""
        if self._end:
            self._transport.abort()
        self._end = self._end or TIMEOUT
        self._smtp.close(Reply(421, "4.4.2", "Timeout"))
        self._write()

    # ------------------------------------------------------------ dialogue

    def _advance(self) -> None:
        while (event := self._smtp.next_event()) is not None:
            self._handle(event)
        self._write()

    def _write(self) -> None:
        if output := self._smtp.data_to_send():
            self._transport.write(output)
        if self._smtp.closed:
            self._end = self._end or CUT
            self._transport.close()

    def _handle(self, event: smtp.Event) -> None:
        match event:
            case smtp.Connected() if not self._may_stay:
                self._smtp.reply(_TOO_MANY)
            case smtp.Mail():
                self._sender = event.sender
                self._smtp.accept()
            case smtp.Rcpt():
                self._recipient(event.address)
            case smtp.MessageReceived():
                self._message(event)
            case smtp.Quit():
                self._end = QUIT
                self._smtp.accept()
            case smtp.Auth():
                raise AssertionError("AUTH is not offered")
            case _:
                self._smtp.accept()

    def _recipient(self, recipient: str) -> None:
        refusal = self._sink.behaviours.at_recipient(self.peer, self._sender, recipient, time.monotonic())
        if refusal is None:
            self._smtp.accept()
        else:
            self._smtp.reply(refusal)

    def _message(self, message: smtp.MessageReceived) -> None:
        """The first recipient decides what happens after the final dot."""
        self._messages += 1
        self._final_dot = self._sink.behaviours.at_final_dot(message.recipients[0])
        now = time.time()
        letter_id = f"{self._id}.{self._messages}"
        letter = Letter(letter_id, now, self.peer, self.host, message.sender, message.recipients, message.data)
        self._sink.received(self, self._records(message, now), letter)

    def _records(self, message: smtp.MessageReceived, now: float) -> list[LedgerMessage]:
        digest = hashlib.sha256(message.data).hexdigest()
        message_id = message_id_of(message.data)
        return [
            LedgerMessage(
                time=now,
                connection=self._id,
                order=self._messages,
                peer=self.peer,
                host=self.host,
                ehlo=self._smtp.hello.name if self._smtp.hello else "",
                tls=False,
                sender=message.sender,
                recipient=recipient,
                size=len(message.data),
                sha256=digest,
                message_id=message_id,
            )
            for recipient in message.recipients
        ]

    def stored(self) -> None:
        """The message is on file."""
        if self._smtp.closed:
            return
        if self._final_dot.cut:
            self.cut()
        elif self._final_dot.delay:
            asyncio.get_running_loop().call_later(self._final_dot.delay, self._accept)
        else:
            self._accept()

    def not_stored(self) -> None:
        self._messages -= 1
        if not self._smtp.closed:
            self._smtp.reply(_FULL)
            self._go_on()

    def _accept(self) -> None:
        if not self._smtp.closed:
            self._smtp.accept()
            self._go_on()

    def _go_on(self) -> None:
        self.active = time.monotonic()
        self._advance()
        if not self._smtp.closed and not self._smtp.congested:
            self._transport.resume_reading()


def message_id_of(data: bytes) -> str:
    """The Message-ID field of a message's header; empty where there is none."""
    found = _MESSAGE_ID.search(data, 0, data.find(b"\r\n\r\n") + 2)
    return found[1].decode(errors="replace") if found else ""

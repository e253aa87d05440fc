"""From one version of the proxy to the next, without a refused connection or a forgotten one.

The running proxy listens on a Unix socket. Whoever connects is its successor and gets the listening sockets
(SCM_RIGHTS), the limits' state and the open places. From then on the successor alone counts: the predecessor asks it
for the places of clients that were still on their way, and reports each place that comes free, until its last session
has ended. A predecessor whose successor goes away is the owner again.

One JSON object a line. Times are CLOCK_BOOTTIME, which both processes share.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from pathlib import Path

import msgspec
import structlog
from msgspec import Struct

from ip_proxy.limits import Key, LineState, Place, Policy, Ticket
from ip_proxy.listener import Listener
from ip_proxy.proxy import Proxy

log = structlog.get_logger()

PATIENCE = 5.0
"""Seconds for the predecessor to do its part of the beginning."""
MOST_SOCKETS = 2
"""For clients, and for health checks."""
LONGEST_LINE = 64 * 1024 * 1024


class OpenPlace(Struct, frozen=True):
    number: int
    key: Key
    since: float


class Snapshot(Struct, frozen=True):
    """The predecessor's first line."""

    lines: tuple[LineState, ...] = ()
    open: tuple[OpenPlace, ...] = ()


class Enter(Struct, frozen=True, tag=True):
    """The predecessor says: a client of mine wants a place."""

    number: int
    key: Key
    policy: Policy


class Leave(Struct, frozen=True, tag=True):
    """The predecessor says: that one is not needed any more."""

    number: int


class Opened(Struct, frozen=True):
    """The successor says: that one is open."""

    number: int


_decode_snapshot = msgspec.json.Decoder(Snapshot).decode
_decode_said: msgspec.json.Decoder[Enter | Leave] = msgspec.json.Decoder(Enter | Leave)
_decode_opened = msgspec.json.Decoder(Opened).decode


@contextlib.contextmanager
def _reachable(path: Path) -> Iterator[str]:
    """A name for it that is short enough: the address of a Unix socket has at most 107 bytes."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)


def _send(writer: asyncio.StreamWriter, message: Struct) -> None:
    if not writer.is_closing():
        writer.write(msgspec.json.encode(message) + b"\n")


# ---------------------------------------------------------------- the successor's side


class Inherited(Struct, frozen=True):
    """What a predecessor left; its sockets are in the order in which it listed them."""

    sockets: tuple[socket.socket, ...]
    snapshot: Snapshot
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter


async def take_over(path: Path) -> Inherited | None:
    """None where no proxy listens at `path`. Raises `OSError` when one does not do its part in time."""
    received = await asyncio.to_thread(_call, path)
    if received is None:
        return None
    connection, sockets = received
    reader, writer = await asyncio.open_unix_connection(sock=connection, limit=LONGEST_LINE)
    async with asyncio.timeout(PATIENCE):
        line = await reader.readline()
    return Inherited(sockets, _decode_snapshot(line) if line else Snapshot(), reader, writer)


def _call(path: Path) -> tuple[socket.socket, tuple[socket.socket, ...]] | None:
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    try:
        with _reachable(path) as short:
            connection.connect(short)
        _, descriptors, _, _ = socket.recv_fds(connection, 1, MOST_SOCKETS)
    except OSError as error:
        connection.close()
        if isinstance(error, FileNotFoundError | ConnectionRefusedError):
            return None
        raise
    connection.setblocking(False)
    return connection, tuple(socket.socket(fileno=descriptor) for descriptor in descriptors)


class Predecessor:
    """The places that another process still holds, counted here."""

    def __init__(self, proxy: Proxy, inherited: Inherited) -> None:
        """Counts at once what the snapshot says, then listens; needs a running loop."""
        self._proxy = proxy
        self._reader, self._writer = inherited.reader, inherited.writer
        snapshot = inherited.snapshot
        limits = {line.key: line.policy for line in snapshot.lines}
        self._tickets = {
            place.number: Ticket(place.key, limits[place.key], Place.OPEN, place.since) for place in snapshot.open
        }
        proxy.slots.adopt(snapshot.lines, self._tickets.values())
        proxy.predecessors.add(self)
        self._task = asyncio.create_task(self._run())
        log.info("took_over", open=len(self._tickets))

    @property
    def open(self) -> int:
        return sum(ticket.place is Place.OPEN for ticket in self._tickets.values())

    async def _run(self) -> None:
        """Until the predecessor has ended; whatever it held until then has ended with it."""
        try:
            async for line in self._reader:
                self._hear(_decode_said.decode(line))
        except ConnectionError:
            log.warning("predecessor_lost", open=self.open)
        finally:
            for number in list(self._tickets):
                self._leave(number)
            self._writer.close()
            self._proxy.forget_predecessor(self)

    def _hear(self, said: Enter | Leave) -> None:
        match said:
            case Enter(number, key, policy):
                ticket = self._tickets[number] = Ticket(key, policy)
                self._proxy.slots.enter(ticket, partial(_send, self._writer, Opened(number)))
            case Leave(number):
                self._leave(number)

    def _leave(self, number: int) -> None:
        self._proxy.slots.give_back(self._tickets.pop(number))


# ---------------------------------------------------------------- the predecessor's side


class _Link:
    """Tells the successor what becomes of tickets here: see `ip_proxy.slots.Successor`."""

    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self._writer = writer
        self._numbers: dict[Ticket, int] = {}
        self._tickets: dict[int, Ticket] = {}
        self._next = count()

    def begin(self, lines: Sequence[LineState], tickets: Sequence[Ticket]) -> None:
        places = (OpenPlace(self._number(ticket), ticket.key, ticket.since) for ticket in tickets)
        _send(self._writer, Snapshot(tuple(lines), tuple(places)))

    def enter(self, ticket: Ticket) -> None:
        _send(self._writer, Enter(self._number(ticket), ticket.key, ticket.policy))

    def leave(self, ticket: Ticket) -> None:
        number = self._numbers.pop(ticket)
        del self._tickets[number]
        _send(self._writer, Leave(number))

    def ticket(self, number: int) -> Ticket | None:
        """None if it has left meanwhile."""
        return self._tickets.get(number)

    def _number(self, ticket: Ticket) -> int:
        number = self._numbers[ticket] = next(self._next)
        self._tickets[number] = ticket
        return number


class Handover:
    """Waits at `path` for a successor. `listeners` are what it gets, in this order."""

    def __init__(self, path: Path, proxy: Proxy, listeners: Sequence[Listener]) -> None:
        self._path = path
        self._proxy = proxy
        self._listeners = listeners
        self.done = False
        """Whether a successor serves."""

    async def run(self) -> None:
        """Until a successor serves and the last session here has ended, or its time is over."""
        while True:
            with self._listen() as sock:
                connection, _ = await asyncio.get_running_loop().sock_accept(sock)
            self._set_done(True)
            try:
                if await self._serve(connection):
                    return
            except OSError as error:
                log.warning("handover_failed", error=str(error))
            self._set_done(False)

    def _listen(self) -> socket.socket:
        """In place of whoever listened there before."""
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        new = self._path.with_name(f"{self._path.name}.{os.getpid()}")
        new.unlink(missing_ok=True)
        with _reachable(new) as short:
            sock.bind(short)
        new.chmod(0o600)
        sock.listen()
        new.rename(self._path)
        return sock

    def _set_done(self, done: bool) -> None:
        self.done = done
        for listener in self._listeners:
            if done:
                listener.pause()
            else:
                listener.resume()

    async def _serve(self, connection: socket.socket) -> bool:
        """Whether the successor was there until the end."""
        socket.send_fds(connection, [b"\0"], [listener.fileno() for listener in self._listeners])
        reader, writer = await asyncio.open_unix_connection(sock=connection)
        link = _Link(writer)
        self._proxy.slots.hand_over(link)
        log.info("handed_over", sessions=len(self._proxy.sessions))
        hearing = asyncio.create_task(self._hear(reader, link))
        emptied = asyncio.create_task(self._proxy.emptied())
        try:
            await asyncio.wait([hearing, emptied], return_when=asyncio.FIRST_COMPLETED)
        finally:
            hearing.cancel()
            emptied.cancel()
            writer.close()
        if not emptied.done():
            log.warning("successor_lost", sessions=len(self._proxy.sessions))
            self._proxy.slots.resume()
        return emptied.done()

    async def _hear(self, reader: asyncio.StreamReader, link: _Link) -> None:
        with contextlib.suppress(ConnectionError):
            async for line in reader:
                ticket = link.ticket(_decode_opened(line).number)
                if ticket is not None:
                    self._proxy.slots.opened(ticket)

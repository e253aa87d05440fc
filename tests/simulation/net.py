"""Connections of simulated processes through a simulated proxy to the simulated MX.

Bytes travel with delays drawn from the seed, in order, sometimes in two pieces, and sometimes the connection is cut.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeVar

from simulation.mx import Responder, SimMx
from simulation.process import SimProcess
from simulation.world import World

from postfleet.evidence import CUT, EOF
from postfleet.socks.server import ConnectRequest, Rejected, SocksServer, reply
from postfleet.socks.wire import Reply

P = TypeVar("P", bound=asyncio.BaseProtocol)


class SimNetwork:
    """What one process dials with: every address is a proxy, and behind it every target is an MX."""

    def __init__(self, process: SimProcess, mx: SimMx) -> None:
        self._process = process
        self._mx = mx

    async def connect(self, factory: Callable[[], P], host: str, port: int) -> tuple[asyncio.Transport, P]:
        """As `loop.create_connection`. Raises `ConnectionRefusedError`."""
        process, world = self._process, self._process.world
        await process.checkpoint()
        await asyncio.sleep(world.latency())
        if host in self._mx.down or world.chance(world.faults.refused):
            raise ConnectionRefusedError(f"simulated: {host}:{port} refused")
        protocol = factory()
        connection = Connection(process, self._mx, protocol, (host, port))
        protocol.connection_made(connection.transport)
        return connection.transport, protocol


class ProxyFront:
    """The proxy's part at the beginning of a connection: opens the MX's side or refuses."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._socks = SocksServer()
        self._read = 0

    def feed(self, data: bytes) -> None:
        self._read += len(data)
        answer, result = self._socks.receive(data)
        self._connection.reply(answer)
        match result:
            case ConnectRequest():
                self._connect(result)
            case Rejected():
                self._connection.end(EOF)

    def _connect(self, request: ConnectRequest) -> None:
        connection, world = self._connection, self._connection.world
        if request.host in connection.mx.down or world.chance(world.faults.refused):
            connection.reply(reply(Reply.CONNECTION_REFUSED))
            connection.end(EOF)
            return
        connection.reply(reply(Reply.SUCCEEDED, request.username, 25000))
        connection.host = request.host
        connection.source = request.username
        connection.responder = Responder(connection, self._read - len(request.rest))
        connection.responder.greet()
        connection.responder.feed(request.rest)


class _Pipe:
    """One direction: pieces arrive in order, each after a delay."""

    def __init__(self, world: World, arrive: Callable[[bytes | None], None], context: Context) -> None:
        self._world = world
        self._arrive = arrive
        self._context = context
        self._pieces: deque[bytes | None] = deque()
        self._last = 0.0
        self._waiting = 0
        self.held = False
        """The reader has paused reading."""

    def push(self, data: bytes) -> None:
        world = self._world
        if len(data) > 1 and world.chance(world.faults.split):
            middle = 1 + int(world.rng.random() * (len(data) - 1))
            self._send(data[:middle])
            self._send(data[middle:])
        else:
            self._send(data)

    def push_eof(self) -> None:
        self._send(None)

    def truncate(self) -> None:
        """Drop some of the last pieces under way, as the death of a machine does."""
        keep = int(self._world.rng.random() * (len(self._pieces) + 1))
        while len(self._pieces) > keep:
            self._pieces.pop()

    def drop(self) -> None:
        self._pieces.clear()

    def release(self) -> None:
        self.held = False
        due, self._waiting = self._waiting, 0
        for _ in range(due):
            self._world.loop.call_soon(self._due, context=self._context)

    def _send(self, piece: bytes | None) -> None:
        world = self._world
        self._pieces.append(piece)
        self._last = max(self._last, world.loop.time() + world.between(world.faults.latency))
        world.loop.call_at(self._last, self._due, context=self._context)

    def _due(self) -> None:
        if self.held:
            self._waiting += 1
        else:
            self._pop()

    def _pop(self) -> None:
        if self._pieces:
            self._arrive(self._pieces.popleft())


class Connection:
    """Both ends of one connection and what is under way between them."""

    def __init__(self, process: SimProcess, mx: SimMx, protocol: asyncio.BaseProtocol, peer: tuple[str, int]) -> None:
        world = process.world
        self.process = process
        self.world = world
        self.mx = mx
        self.host = ""
        """Address of the MX, once the proxy has connected to it."""
        self.source = ""
        """Address that the proxy connected from."""
        self.id = mx.next_connection()
        self.is_open = True
        self._protocol = protocol
        self._inside = process.context()
        self._up = _Pipe(world, self._arrive_at_mx, world.loop.outside)
        self._down = _Pipe(world, self._arrive_at_process, self._inside)
        self._written: deque[tuple[int, float]] = deque()
        """(offset after the write, when it was written)"""
        self._sent = 0
        self._lost = False
        self.transport = SimTransport(self, peer)
        self.responder: ProxyFront | Responder = ProxyFront(self)
        process.outstanding[id(self)] = self
        world.note(process, "mx.connect", f"#{self.id}")

    # ------------------------------------------------------------ the process' end

    def write(self, data: bytes) -> None:
        if self.process.dead or self._lost or not data:
            return
        self._sent += len(data)
        self._written.append((self._sent, self.world.loop.time()))
        self._up.push(data)
        if self.world.chance(self.world.faults.cut):
            self.world.later(self.world.latency(), self.cut)

    def shut(self) -> None:
        """Close in order: what was written still arrives."""
        if not (self.process.dead or self._lost):
            self._up.push_eof()
            self._forget(None)

    def abort(self) -> None:
        if not (self.process.dead or self._lost):
            self._up.truncate()
            self._up.push_eof()
            self._forget(None)

    def hold_reading(self, held: bool) -> None:
        if held:
            self._down.held = True
        else:
            self._down.release()

    def _arrive_at_process(self, data: bytes | None) -> None:
        if self._lost:
            return
        if data is None:
            self._protocol.eof_received()  # type: ignore[attr-defined]
            self.shut()
        else:
            self._protocol.data_received(data)  # type: ignore[attr-defined]

    def _forget(self, error: Exception | None) -> None:
        """The process' end is gone; its protocol hears of it once."""
        self._lost = True
        self.process.outstanding.pop(id(self), None)
        self.world.loop.call_soon(self._protocol.connection_lost, error, context=self._inside)

    def owner_crashed(self) -> None:
        self._up.truncate()
        self._up.push_eof()

    def owner_exited(self) -> None:
        self._up.push_eof()

    # ------------------------------------------------------------ the MX's end

    def reply(self, data: bytes) -> None:
        if self.is_open and data:
            self._down.push(data)

    def written_at(self, offset: int) -> float:
        """When the process wrote the byte before `offset`."""
        while self._written[0][0] < offset:
            self._written.popleft()
        return self._written[0][1]

    def _arrive_at_mx(self, data: bytes | None) -> None:
        if self.is_open:
            if data is None:
                self.end(EOF)
            else:
                self.responder.feed(data)

    def end(self, how: str) -> None:
        """The MX is done with the connection."""
        if not self.is_open:
            return
        self.is_open = False
        self.world.note(self.process, "mx.end", f"#{self.id} {how}")
        if isinstance(self.responder, Responder):
            self.mx.note_end(self, how, self.responder.taken)
        if not self._lost:
            self._down.push_eof()

    def cut(self) -> None:
        """The network drops the connection; what is under way is lost."""
        if not self.is_open:
            return
        self.end(CUT)
        self._up.drop()
        self._down.drop()
        if not self._lost:
            self.world.loop.call_later(self.world.latency(), self._reset, context=self._inside)

    def _reset(self) -> None:
        if not self._lost:
            self._forget(ConnectionResetError("simulated: connection cut"))


class SimTransport(asyncio.Transport):
    """The process' end of a connection, with a send buffer that never fills."""

    def __init__(self, connection: Connection, peer: tuple[str, int]) -> None:
        super().__init__({"peername": peer, "sockname": (connection.process.id, 0)})
        self._connection = connection
        self._closing = False

    def write(self, data: Any) -> None:
        if not self._closing:
            self._connection.write(bytes(data))

    def writelines(self, pieces: Any) -> None:
        self.write(b"".join(pieces))

    def close(self) -> None:
        if not self._closing:
            self._closing = True
            self._connection.shut()

    def abort(self) -> None:
        if not self._closing:
            self._closing = True
            self._connection.abort()

    def is_closing(self) -> bool:
        return self._closing or self._connection._lost

    def pause_reading(self) -> None:
        self._connection.hold_reading(True)

    def resume_reading(self) -> None:
        self._connection.hold_reading(False)

    def is_reading(self) -> bool:
        return not self._connection._down.held

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """Nothing to limit."""

    def get_write_buffer_size(self) -> int:
        return 0

    def can_write_eof(self) -> bool:
        return False

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._connection._protocol = protocol

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._connection._protocol

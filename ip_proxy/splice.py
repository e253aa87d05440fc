"""Two connections that feed each other until both are closed.

The slot of a connection is free once the *target* has closed it: only then
does the far host stop counting it. When the client goes away first, the
target is told by EOF and has a short while to close before it is reset.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Callable
from typing import cast

_RESET = struct.pack("ii", 1, 0)
_SLICES = 4
"""How often within a timeout progress is looked at."""


class End(asyncio.Protocol):
    """One of the two connections. Bytes that it reads are written to `sink` while `forwarding`."""

    __slots__ = ("_on_eof", "_on_lost", "ended", "forwarding", "moved", "peer", "transport")

    peer: End
    transport: asyncio.Transport

    def __init__(self, on_eof: Callable[[], None], on_lost: Callable[[], None]) -> None:
        self._on_eof, self._on_lost = on_eof, on_lost
        self.forwarding = True
        self.ended = False
        self.moved = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.forwarding:
            self.moved += len(data)
            self.peer.transport.write(data)

    def pause_writing(self) -> None:
        if not self.peer.transport.is_closing():
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        self.peer.resume_reading()

    def resume_reading(self) -> None:
        if not self.transport.is_closing():
            self.transport.resume_reading()

    def eof_received(self) -> bool:
        self._on_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_lost()

    def write_eof(self) -> None:
        if not self.transport.is_closing():
            self.transport.write_eof()

    def reset(self) -> None:
        """Close with RST, and at once."""
        if not self.transport.is_closing():
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.transport.abort()


class Splice:
    """Both ends, and the one timer that watches them."""

    def __init__(
        self, client: asyncio.Transport, *, idle: float, linger: float, on_target_closed: Callable[[], None]
    ) -> None:
        self.client = End(self._client_ended, self._client_lost)
        self.target = End(self._target_ended, self._target_lost)
        self.client.peer, self.target.peer = self.target, self.client
        self.client.transport = client
        self.timed_out = False
        self.closed = asyncio.Event()
        self._on_target_closed = on_target_closed
        self._lost: set[End] = set()
        self._linger = linger
        self._loop = asyncio.get_running_loop()
        self._watch(idle)

    @property
    def moved(self) -> int:
        return self.client.moved + self.target.moved

    def send_early(self, data: bytes) -> None:
        """To the target, what the client sent before the connection stood."""
        if data:
            self.client.data_received(data)

    def _client_ended(self) -> None:
        """The target's bytes still go through, but not for long."""
        self.client.ended = True
        self.target.write_eof()
        self._hurry()

    def _client_lost(self) -> None:
        self._lost.add(self.client)
        self.target.forwarding = False
        self.target.resume_reading()
        self._client_ended()

    def _target_ended(self) -> None:
        if not self.target.ended:
            self.target.ended = True
            self._on_target_closed()
        self.client.forwarding = False
        self.client.resume_reading()
        self.target.transport.close()
        self.client.write_eof()
        self._hurry()

    def _target_lost(self) -> None:
        self._lost.add(self.target)
        self._target_ended()

    def _hurry(self) -> None:
        if self.client.ended and self.target.ended:
            self.client.transport.close()
        self.stop_watching()
        if len(self._lost) < 2:
            self._watch(self._linger)
        else:
            self.closed.set()

    def _watch(self, patience: float) -> None:
        self._slice = patience / _SLICES
        self._quiet = 0
        self._seen = self.moved
        self._timer = self._loop.call_later(self._slice, self._look)

    def stop_watching(self) -> None:
        self._timer.cancel()

    def _look(self) -> None:
        self._quiet = self._quiet + 1 if self.moved == self._seen else 0
        self._seen = self.moved
        if self._quiet == _SLICES:
            self.timed_out = True
            self.target.reset()
            self.client.reset()
        else:
            self._timer = self._loop.call_later(self._slice, self._look)

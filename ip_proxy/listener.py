"""Accepting that outlives every error of `accept()`."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import structlog

log = structlog.get_logger()

_BACKLOG = 1024
_BATCH = 64
"""Connections accepted per turn of the loop."""
_PAUSE = 0.1
"""Seconds without accepting after running out of descriptors or memory."""
_GONE = {errno.ECONNABORTED, errno.EPERM, errno.EPROTO, errno.ENETDOWN, errno.EHOSTDOWN, errno.EHOSTUNREACH}
"""Errors of the one connection that was to be accepted, accept(2)."""


def open_listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family, backlog=_BACKLOG)


class Listener:
    """Serves `sock` with one protocol per connection, until closed.

    The loop's own server gives up for good when `accept()` fails.
    """

    def __init__(self, sock: socket.socket, factory: Callable[[], asyncio.Protocol]) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._factory = factory
        self._starting: set[asyncio.Task[object]] = set()
        self._pause: asyncio.TimerHandle | None = None
        self._failing = False
        sock.setblocking(False)
        self.resume()

    def fileno(self) -> int:
        return self._sock.fileno()

    def pause(self) -> None:
        """Accept nothing; who connects meanwhile waits in the kernel, for whichever process accepts next."""
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._sock)

    def resume(self) -> None:
        self._loop.add_reader(self._sock, self._accept)

    def close(self) -> None:
        self.pause()
        self._sock.close()

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                connection, _address = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _GONE:
                    continue
                self._rest(error)
                return
            self._start(connection)

    def _start(self, connection: socket.socket) -> None:
        self._failing = False
        connection.setblocking(False)
        task = self._loop.create_task(self._serve(connection))
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    async def _serve(self, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(self._factory, connection)
        except OSError as error:
            log.warning("connection_lost_at_once", error=str(error))
            connection.close()

    def _rest(self, error: OSError) -> None:
        if not self._failing:
            log.warning("accept_failed", error=str(error))
        self._failing = True
        self._loop.remove_reader(self._sock)
        self._pause = self._loop.call_later(_PAUSE, self._loop.add_reader, self._sock, self._accept)

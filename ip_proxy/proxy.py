"""The proxy: its sessions, counts and drain."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import structlog
from msgspec import Struct

from ip_proxy.access import Access
from ip_proxy.listener import Listener
from ip_proxy.session import Session
from ip_proxy.slots import Slots
from ip_proxy.stats import SourceStats
from postfleet.clock import Clock

if TYPE_CHECKING:
    from ip_proxy.handover import Predecessor

log = structlog.get_logger()


class Timing(Struct, frozen=True, kw_only=True):
    """Seconds."""

    handshake: float = 5.0
    limit_wait: float = 1.0
    """How long CONNECT waits in line for a place under the limit."""
    connect: float = 25.0
    idle: float = 660.0
    """Without a byte in either direction; longer than the 10 minutes of SMTP's final dot (RFC 5321 4.5.3.2.6)."""
    linger: float = 10.0
    """How long one side may stay open after the other is done."""
    drain: float = 660.0


class Proxy:
    """Serves as soon as it is made; needs a running loop."""

    def __init__(self, sock: socket.socket, access: Access, timing: Timing, clock: Clock) -> None:
        self.access = access
        self.timing = timing
        self.clock = clock
        self.slots = Slots(clock.mono, timing.limit_wait)
        self.sessions: set[Session] = set()
        self.predecessors: set[Predecessor] = set()
        """Processes that this one took over from and that still hold connections."""
        self.stats = {public: SourceStats() for public in access.sources}
        self.rejected = 0
        self.draining = False
        self._empty = asyncio.Event()
        self.listener = Listener(sock, lambda: Session(self))

    def forget(self, session: Session) -> None:
        self.sessions.discard(session)
        self._note_ends()

    def forget_predecessor(self, predecessor: Predecessor) -> None:
        self.predecessors.discard(predecessor)
        self._note_ends()

    def _note_ends(self) -> None:
        if not self.sessions and not self.predecessors:
            self._empty.set()

    def count_refusal(self, source: str, label: str) -> None:
        if source in self.stats:
            self.stats[source].refused[label] += 1
        else:
            self.rejected += 1

    def note_source(self, source: str, local: str, error: OSError | None) -> None:
        """What became of binding a source; logged when it changes, not per dial."""
        stats = self.stats[source]
        if error is not None and stats.usable:
            log.error("source_unusable", source=source, local=local, error=str(error))
        elif error is None and not stats.usable:
            log.info("source_usable", source=source, local=local)
        stats.usable = error is None

    async def drain(self) -> None:
        """Stop listening and let the sessions end; returns once they have, or their time is over."""
        self.draining = True
        self.listener.close()
        await self.emptied()

    async def emptied(self) -> None:
        """Until no session is left here, nor one that a predecessor reports here, or the time for it is over."""
        log.info("draining", sessions=len(self.sessions), timeout=self.timing.drain)
        try:
            async with asyncio.timeout(self.timing.drain):
                while self.sessions or self.predecessors:
                    self._empty.clear()
                    await self._empty.wait()
        except TimeoutError:
            log.warning("drain_timed_out", sessions=len(self.sessions))

"""Who is alive: one lease row per incarnation, renewed, and watched by the others.

Nobody's wall clock decides. An incarnation trusts its own lease only until
`lease_time` after the moment *before* it sent its last good renewal, counted on
CLOCK_BOOTTIME; others hold it dead only when its row's version stood still for
`lease_time` on their own clock, and say so by a conditional write on that version.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog
from msgspec import Struct

from postfleet.clock import Clock
from postfleet.ports import Row, StateTable, StorageError
from postfleet.settings import Settings

log = structlog.get_logger()

LEASES = "lease"


class Lease(Struct, frozen=True):
    beat: int
    dead: bool = False
    by: str = ""
    """Who marked it dead; its owner, when it stopped cleanly."""


class LeaseKeeper:
    """`on_fenced` is called once, when this incarnation has been taken over: it must stop at once."""

    def __init__(
        self,
        state: StateTable,
        incarnation: str,
        *,
        clock: Clock,
        settings: Settings,
        on_fenced: Callable[[str], None],
    ) -> None:
        self._state = state
        self.incarnation = incarnation
        self._clock = clock
        self._settings = settings
        self._on_fenced = on_fenced
        self._row: Row | None = None
        self._good_until = float("-inf")
        self._watched: dict[str, tuple[int, float]] = {}

    def good(self) -> bool:
        """Whether a transaction may begin, or its final dot be sent, now."""
        return self._clock.mono() < self._good_until

    async def start(self) -> None:
        """Write the lease row; nothing may be claimed before."""
        before = self._clock.mono()
        body = msgspec.json.encode(Lease(0))
        written = await self._state.put_if_absent(LEASES, self.incarnation, body, self._expiry())
        if written.row is None or (not written.ok and written.row.body != body):
            raise RuntimeError(f"incarnation {self.incarnation} is not unique")
        self._renewed(written.row, before)

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lease_renew)
            if not await self._renew():
                return
            await self.observe()

    async def _renew(self) -> bool:
        """False once fenced. A renewal of unknown result is repeated as it was."""
        row = self._row
        assert row is not None
        before = self._clock.mono()
        body = msgspec.json.encode(Lease(row.version))
        while True:
            try:
                written = await self._state.put_if(row, body, self._expiry())
                break
            except StorageError as error:
                log.warning("lease_not_renewed", error=str(error))
                await asyncio.sleep(self._settings.lease_renew / 5)
        if written.row is not None and (written.ok or written.row.body == body):
            self._renewed(written.row, before)
            return True
        self._lose("another process marked this one dead")
        return False

    def _renewed(self, row: Row, before: float) -> None:
        self._row = row
        self._good_until = before + self._settings.lease_time

    def _lose(self, reason: str) -> None:
        self._good_until = float("-inf")
        self._on_fenced(reason)

    async def stop(self) -> None:
        """Say that this incarnation is gone, so that nobody waits for its lease."""
        self._good_until = float("-inf")
        if self._row is not None:
            body = msgspec.json.encode(Lease(self._row.version, dead=True, by=self.incarnation))
            await self._state.put_if(self._row, body, self._expiry())

    # ------------------------------------------------------------ the others

    async def observe(self) -> None:
        """Note which rows moved."""
        try:
            rows = await self._state.query(LEASES)
        except StorageError as error:
            log.warning("leases_not_read", error=str(error))
            return
        now = self._clock.mono()
        seen = {row.sort: row.version for row in rows}
        for owner in self._watched.keys() - seen.keys():
            del self._watched[owner]
        for owner, version in seen.items():
            self._note(owner, version, now)

    def _note(self, owner: str, version: int, now: float) -> None:
        if self._watched.get(owner, (-1, 0.0))[0] != version:
            self._watched[owner] = (version, now)

    async def bury(self, owner: str) -> bool:
        """Mark `owner` dead if its lease stood still long enough; whether it is dead now, for good."""
        row = await self._state.get(LEASES, owner)
        if row is None:
            body = msgspec.json.encode(Lease(0, dead=True, by=self.incarnation))
            written = await self._state.put_if_absent(LEASES, owner, body, self._expiry())
            return written.ok or _is_dead(written.row)
        if _is_dead(row):
            return True
        now = self._clock.mono()
        self._note(owner, row.version, now)
        if not self.stood_still(owner, now):
            return False
        lease = Lease(row.version, dead=True, by=self.incarnation)
        written = await self._state.put_if(row, msgspec.json.encode(lease), self._expiry())
        return written.ok or _is_dead(written.row)

    def stood_still(self, owner: str, now: float) -> bool:
        return now - self._watched[owner][1] >= self._settings.lease_time

    def _expiry(self) -> float:
        return self._settings.ownership_expiry(self._clock.now())


def _is_dead(row: Row | None) -> bool:
    return row is not None and msgspec.json.decode(row.body, type=Lease).dead

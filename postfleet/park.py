"""Units that wait: a delayed queue entry up to 15 minutes, a row in a due-time bucket beyond.

The sweep of the buckets sends first and deletes after, and looks at every
bucket up to now, never from a cursor.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Iterable, Sequence

from msgspec import Struct

from postfleet.clock import Clock
from postfleet.gather import Gatherer
from postfleet.ids import nonce
from postfleet.layout import message_size
from postfleet.ports import MAX_DELAY, Outgoing, Row, StateTable, Unavailable, WorkQueue
from postfleet.settings import Settings
from postfleet.stages import Unit, UnitEntry, decode_unit_entry, encode

SHARDS = 4
BUCKET = 60.0
"""Seconds that one due-time bucket covers."""
SWEEP_ROWS = 50
ROW_BYTES = 128 * 1024
"""Parks of one bucket share rows of about this size, whosever they are."""
ENTRY_BYTES = 256 * 1024
"""A sweep merges parks of one tenant into entries of about this size."""


class Park(Struct, frozen=True):
    due: float
    """Unix seconds."""
    unit: Unit


class Parks:
    """Rows are containers: whatever waits for the same bucket shares one, and a repeat makes another.

    A unit's plan row makes every copy of it the same.
    """

    def __init__(
        self, *, units: WorkQueue, state: StateTable, clock: Clock, settings: Settings, rng: random.Random
    ) -> None:
        self._units = units
        self._state = state
        self._clock = clock
        self._writer = nonce(rng)
        self._rows = 0
        self._gathered = Gatherer(self._write, busy_window=settings.park_window)

    async def write(self, parks: Sequence[Park]) -> None:
        """Return once they are durable. Repeating it is harmless."""
        await self._gathered.put(parks)

    async def _write(self, parks: Sequence[Park]) -> None:
        now = self._clock.now()
        soon = [park for park in parks if park.due - now <= MAX_DELAY]
        if soon:
            await self._units.send([_delayed(park, now) for park in soon])
        buckets: dict[str, list[Unit]] = {}
        for park in parks:
            if park.due - now > MAX_DELAY:
                buckets.setdefault(due_minute(park.due), []).append(park.unit)
        await asyncio.gather(
            *(self._write_row(minute, body) for minute, units in buckets.items() for body in _bodies(units))
        )

    async def _write_row(self, minute: str, body: bytes) -> None:
        self._rows += 1
        partition, sort = f"due/{self._rows % SHARDS}", f"{minute}/{self._writer}.{self._rows}"
        written = await self._state.put_if_absent(partition, sort, body)
        if not written.ok:
            raise Unavailable(f"row {partition} {sort} is taken: its parks are written again, elsewhere")


def _bodies(units: Iterable[Unit]) -> list[bytes]:
    return [encode(UnitEntry(units=tuple(part))) for part in _parts(units, ROW_BYTES)]


def _parts(units: Iterable[Unit], most: int) -> list[list[Unit]]:
    """Runs of about `most` bytes, at least one unit each."""
    parts: list[list[Unit]] = []
    size = most
    for unit in units:
        weight = _size(unit)
        size += weight
        if size > most:
            parts.append([])
            size = weight
        parts[-1].append(unit)
    return parts


def _size(unit: Unit) -> int:
    """About how many bytes it takes."""
    groups = unit.groups
    return sum(300 + len(group.transmission.data) + sum(map(message_size, group.messages)) for group in groups)


def _delayed(park: Park, now: float) -> Outgoing:
    entry = encode(UnitEntry(units=(park.unit,)))
    return Outgoing(entry, group=str(park.unit.tenant), delay=min(max(park.due - now, 0.0), MAX_DELAY))


def due_minute(due: float) -> str:
    """The bucket of a time: whole minutes since 1970, rounded up, so that nothing is swept early."""
    return f"{math.ceil(due / BUCKET):010d}"


async def sweep(*, units: WorkQueue, state: StateTable, now: float) -> int:
    """Move every park that is due to the router's queue; how many."""
    moved = 0
    for shard in range(SHARDS):
        while rows := await state.query(f"due/{shard}", end=f"{int(now // BUCKET) + 1:010d}", limit=SWEEP_ROWS):
            due = parked(rows)
            await units.send(merge(due))
            await asyncio.gather(*map(state.delete_if, rows))
            moved += len(due)
    return moved


def parked(rows: Iterable[Row]) -> list[Unit]:
    return [unit for row in rows for unit in decode_unit_entry(row.body).units]


def merge(units: Iterable[Unit]) -> list[Outgoing]:
    """Entries of one tenant each that carry the units."""
    by_tenant: dict[int, list[Unit]] = {}
    for unit in units:
        by_tenant.setdefault(unit.tenant, []).append(unit)
    return [
        Outgoing(encode(UnitEntry(units=tuple(part))), group=str(tenant))
        for tenant, members in by_tenant.items()
        for part in _parts(members, ENTRY_BYTES)
    ]

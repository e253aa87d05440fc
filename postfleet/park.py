"""Units that wait: a delayed queue entry up to 15 minutes, a row in a due-time bucket beyond.

The sweep of the buckets sends first and deletes after, and looks at every
bucket up to now, never from a cursor.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterable, Sequence

from msgspec import Struct

from postfleet.ports import MAX_DELAY, Outgoing, Row, StateTable, WorkQueue
from postfleet.stages import Unit, UnitEntry, decode_unit_entry, encode

SHARDS = 4
SWEEP_ROWS = 200
ENTRY_BYTES = 256 * 1024
"""A sweep merges parks of one tenant into entries of about this size."""


class Park(Struct, frozen=True):
    due: float
    """Unix seconds."""
    unit: Unit


async def send_parks(parks: Sequence[Park], *, units: WorkQueue, state: StateTable, now: float) -> None:
    """Make `parks` durable. Repeating it is harmless: a unit's plan row makes every copy the same."""
    soon = [park for park in parks if park.due - now <= MAX_DELAY]
    if soon:
        await units.send([_delayed(park, now) for park in soon])
    for park in parks:
        if park.due - now > MAX_DELAY:
            await state.put_if_absent(_bucket(park.unit), due_sort(park), encode(UnitEntry(units=(park.unit,))))


def _delayed(park: Park, now: float) -> Outgoing:
    entry = encode(UnitEntry(units=(park.unit,)))
    return Outgoing(entry, group=str(park.unit.tenant), delay=min(max(park.due - now, 0.0), MAX_DELAY))


def _bucket(unit: Unit) -> str:
    return f"due/{zlib.crc32(unit.id.encode()) % SHARDS}"


def due_sort(park: Park) -> str:
    return f"{due_minute(park.due)}/{park.unit.id}"


def due_minute(due: float) -> str:
    """The bucket of a time: whole minutes since 1970, rounded up, so that nothing is swept early."""
    return f"{math.ceil(due / 60):010d}"


async def sweep(*, units: WorkQueue, state: StateTable, now: float) -> int:
    """Move every park that is due to the router's queue; how many."""
    moved = 0
    for shard in range(SHARDS):
        while rows := await state.query(f"due/{shard}", end=f"{int(now // 60) + 1:010d}", limit=SWEEP_ROWS):
            await units.send(merge(rows))
            for row in rows:
                await state.delete_if(row)
            moved += len(rows)
    return moved


def merge(rows: Iterable[Row]) -> list[Outgoing]:
    """Entries of one tenant each that carry the rows' units."""
    by_tenant: dict[int, list[list[Unit]]] = {}
    sizes: dict[int, int] = {}
    for row in rows:
        (unit,) = decode_unit_entry(row.body).units
        entries = by_tenant.setdefault(unit.tenant, [[]])
        if entries[-1] and sizes[unit.tenant] + len(row.body) > ENTRY_BYTES:
            entries.append([])
            sizes[unit.tenant] = 0
        entries[-1].append(unit)
        sizes[unit.tenant] = sizes.get(unit.tenant, 0) + len(row.body)
    return [
        Outgoing(encode(UnitEntry(units=tuple(units))), group=str(tenant))
        for tenant, entries in by_tenant.items()
        for units in entries
    ]

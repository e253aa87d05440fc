"""One look into the stores, for commands that say where messages rest.

On this machine it shows everything, as it stands at one instant. SQS shows how many entries a queue has, and what is in
them only to who takes them; so there a look shows the parks beyond 15 minutes, and the queues that are not empty.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from msgspec import Struct

from postfleet.accept import UNITS
from postfleet.backends.local import LocalBackends
from postfleet.backends.local_inspect import inspect
from postfleet.backends.opening import Stores
from postfleet.cli.places import Holding, holdings, parked
from postfleet.clock import SystemClock
from postfleet.deployment import DataDir
from postfleet.park import SHARDS
from postfleet.ports import Backends, QueueStats, Row
from postfleet.providers import LANES

PAGE = 1000


class Rest(Struct, frozen=True):
    holdings: Sequence[Holding]
    unseen: Mapping[str, int] = {}
    """Entries that cannot be read, by queue; about, as SQS counts. Queues without any are left out."""

    def __bool__(self) -> bool:
        return bool(self.holdings or self.unseen)


async def read_rest(data: DataDir, stores: Stores) -> Rest:
    if isinstance(stores, LocalBackends):
        with inspect(data.store, SystemClock()) as inspection:
            return Rest(holdings(inspection))
    before = await read_stats(stores, (UNITS, *LANES))
    rows = await parked_rows(stores)
    after = await read_stats(stores, (UNITS, *LANES))
    unseen = {name: entries_of(after[name]) or entries_of(before[name]) for name in after}
    return Rest([holding for row in rows for holding in parked(row)], {name: n for name, n in unseen.items() if n})


async def read_stats(stores: Backends, queues: Sequence[str]) -> Mapping[str, QueueStats]:
    stats = await asyncio.gather(*(stores.queue(name).stats() for name in queues))
    return dict(zip(queues, stats, strict=True))


def entries_of(stats: QueueStats) -> int:
    return stats.visible + stats.in_flight + stats.delayed


async def parked_rows(stores: Backends) -> list[Row]:
    """Of the due-time buckets."""
    shards = await asyncio.gather(*(_rows(stores, f"due/{shard}") for shard in range(SHARDS)))
    return [row for rows in shards for row in rows]


async def _rows(stores: Backends, partition: str) -> list[Row]:
    rows: list[Row] = []
    while True:
        page = await stores.state.query(partition, start=f"{rows[-1].sort}\0" if rows else "", limit=PAGE)
        rows += page
        if len(page) < PAGE:
            return rows

"""`postfleet queue`: what waits where, and until when."""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

import typer
from msgspec import Struct

from postfleet.accept import UNITS
from postfleet.arrivals import DEAD, INBOX
from postfleet.backends.local import LocalBackends
from postfleet.backends.local_inspect import DELAYED, IN_FLIGHT, VISIBLE, inspect
from postfleet.cli.options import DATA, DataOption, JsonOption, open_backends, platform, print_json, print_table
from postfleet.cli.places import due_of
from postfleet.cli.rest import parked_rows, read_stats
from postfleet.cli.story import clock_time, printable
from postfleet.clock import SystemClock
from postfleet.deployment import DataDir
from postfleet.directory import Binding, Directory, Suspension
from postfleet.events import EVENTS
from postfleet.ports import MAX_DELAY, Backends
from postfleet.providers import LANES

WITHIN_DELAY = "within 15 minutes"
"""As long as entries of a queue can be delayed."""
_STEPS = {
    0.0: "due now",
    60.0: "within a minute",
    MAX_DELAY: WITHIN_DELAY,
    3600.0: "within an hour",
    6 * 3600.0: "within 6 hours",
    float("inf"): "later",
}


class Depth(Struct, frozen=True):
    """Entries of one queue; an entry holds up to 50 messages of a lane, up to 1,000 of the router's queue."""

    queue: str
    visible: int
    in_flight: int
    delayed: int


class Backlog(Struct, frozen=True):
    queues: list[Depth]
    parks: dict[str, int]
    """Parked units by the time until they are due."""
    suspensions: list[Suspension]
    bindings: list[Binding]
    note: str = ""
    """What the stores do not tell."""


def queue(as_json: JsonOption = False, data: DataOption = DATA) -> None:
    """Show each queue's depth, when parked mail is due, and the state of bindings."""
    backlog = asyncio.run(read_backlog(data))
    if as_json:
        return print_json(backlog)
    _show(backlog, time.time())


async def read_backlog(path: Path) -> Backlog:
    data = platform(path)
    async with open_backends(data) as stores:
        directory = Directory(stores.state)
        await directory.refresh()
        now = time.time()
        if isinstance(stores, LocalBackends):
            queues, parks, note = *_look(data, now), ""
        else:
            queues, parks, note = await _ask(stores, now)
    return Backlog(
        queues=queues,
        parks=parks,
        suspensions=[each for each in directory.suspensions.values() if each.until > now],
        bindings=sorted(directory.bindings.values(), key=lambda binding: binding.name),
        note=note,
    )


def _look(data: DataDir, now: float) -> tuple[list[Depth], dict[str, int]]:
    with inspect(data.store, SystemClock()) as inspection:
        entries = [(entry.queue, entry.state, entry.until) for entry in inspection.entries()]
        due_times = [until for name, state, until in entries if (name, state) == (UNITS, DELAYED)]
        due_times += [due_of(row.sort) for row in inspection.rows("due")]
    return _depths(Counter((name, state) for name, state, _ in entries)), by_due_time(due_times, now)


async def _ask(stores: Backends, now: float) -> tuple[list[Depth], dict[str, int], str]:
    """What SQS and the due-time buckets say."""
    stats = await read_stats(stores, (UNITS, *LANES, EVENTS, INBOX, DEAD))
    queues = [Depth(name, each.visible, each.in_flight, each.delayed) for name, each in stats.items()]
    parks = by_due_time([due_of(row.sort) for row in await parked_rows(stores)], now)
    note = "SQS counts about, and does not show what is in its entries"
    if delayed := stats[UNITS].delayed:
        parks[WITHIN_DELAY] += delayed
        note += f"; the {delayed} delayed ones in {UNITS} are parks due {WITHIN_DELAY} at the latest"
    return queues, parks, note


def _depths(counted: Mapping[tuple[str, str], int]) -> list[Depth]:
    known = (UNITS, *LANES, EVENTS)
    others = sorted({name for name, _ in counted}.difference(known))
    return [
        Depth(name, *(counted.get((name, state), 0) for state in (VISIBLE, IN_FLIGHT, DELAYED)))
        for name in (*known, *others)
    ]


def by_due_time(due_times: Iterable[float], now: float) -> dict[str, int]:
    """How many are due within each of a few spans, of which only the first that fits counts."""
    bounds, names = list(_STEPS), list(_STEPS.values())
    counts = dict.fromkeys(names, 0)
    for due in due_times:
        counts[names[bisect_left(bounds, due - now)]] += 1
    return counts


def _show(backlog: Backlog, now: float) -> None:
    depths = ((each.queue, each.visible, each.in_flight, each.delayed) for each in backlog.queues)
    print_table(("queue (entries)", "visible", "in flight", "delayed"), depths)
    typer.echo()
    print_table(("parked units", "count"), backlog.parks.items())
    typer.echo()
    print_table(("binding", "state", "reason"), map(_binding_row, backlog.bindings))
    if backlog.note:
        typer.echo(f"\n{backlog.note}")
    if backlog.suspensions:
        rows = ((each.binding, each.limit_key, clock_time(each.until, now), printable(each.reason))
                for each in backlog.suspensions)  # fmt: skip
        typer.echo()
        print_table(("suspended binding", "towards", "until", "reason"), rows)


def _binding_row(binding: Binding) -> tuple[str, str, str]:
    return binding.name, "alive" if binding.alive else "dead", binding.reason

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
from postfleet.backends.local_inspect import DELAYED, IN_FLIGHT, VISIBLE, inspect
from postfleet.cli.options import DATA, DataOption, JsonOption, open_backends, platform, print_json, print_table
from postfleet.cli.places import due_of
from postfleet.cli.story import clock_time, printable
from postfleet.clock import SystemClock
from postfleet.directory import Binding, Directory, Suspension
from postfleet.events import EVENTS
from postfleet.providers import LANES

_STEPS = {
    0.0: "due now",
    60.0: "within a minute",
    15 * 60.0: "within 15 minutes",
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


def queue(as_json: JsonOption = False, data: DataOption = DATA) -> None:
    """Show each queue's depth, when parked mail is due, and the state of bindings."""
    backlog = asyncio.run(read_backlog(data))
    if as_json:
        return print_json(backlog)
    _show(backlog, time.time())


async def read_backlog(path: Path) -> Backlog:
    data = platform(path)
    async with open_backends(data) as backends:
        directory = Directory(backends.state)
        await directory.refresh()
    now = time.time()
    with inspect(data.store, SystemClock()) as inspection:
        entries = [(entry.queue, entry.state, entry.until) for entry in inspection.entries()]
        due_times = [until for name, state, until in entries if (name, state) == (UNITS, DELAYED)]
        due_times += [due_of(row.sort) for row in inspection.rows("due")]
    return Backlog(
        queues=_depths(Counter((name, state) for name, state, _ in entries)),
        parks=by_due_time(due_times, now),
        suspensions=[each for each in directory.suspensions.values() if each.until > now],
        bindings=sorted(directory.bindings.values(), key=lambda binding: binding.name),
    )


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
    if backlog.suspensions:
        rows = ((each.binding, each.limit_key, clock_time(each.until, now), printable(each.reason))
                for each in backlog.suspensions)  # fmt: skip
        typer.echo()
        print_table(("suspended binding", "towards", "until", "reason"), rows)


def _binding_row(binding: Binding) -> tuple[str, str, str]:
    return binding.name, "alive" if binding.alive else "dead", binding.reason

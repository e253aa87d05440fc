from __future__ import annotations

import asyncio
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mail import NOW, unit
from support.memory_backends import MemoryBackends

from postfleet.park import ROW_BYTES, Park, Parks, due_minute, merge, sweep
from postfleet.ports import MAX_DELAY
from postfleet.settings import Settings
from postfleet.stages import Unit, UnitEntry, decode_unit_entry, encode


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def now(self) -> float:
        return NOW + self.time

    def mono(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backends(clock: Clock) -> MemoryBackends:
    return MemoryBackends(clock)


async def units_received(backends: MemoryBackends) -> list[str]:
    entries = await backends.queue("units").receive(100, 0)
    return [found.id for entry in entries for found in decode_unit_entry(entry.body).units]


def parks_of(backends: MemoryBackends, clock: Clock, window: float = 0.0) -> Parks:
    return Parks(
        units=backends.queue("units"),
        state=backends.state,
        clock=clock,
        settings=Settings(park_window=window),
        rng=random.Random(1),
    )


def due_in(seconds: float, *identities: str) -> list[Park]:
    return [Park(NOW + seconds, unit("a@x.test", identity=identity)) for identity in identities]


async def park(backends: MemoryBackends, clock: Clock, seconds: float, *identities: str) -> None:
    await parks_of(backends, clock).write(due_in(clock.time + seconds, *identities))


async def test_a_short_wait_is_a_delayed_entry(backends: MemoryBackends, clock: Clock) -> None:
    """Up to 15 minutes the queue itself keeps the unit."""
    await park(backends, clock, 60, "u1")
    assert await units_received(backends) == []
    clock.time = 60
    assert await units_received(backends) == ["u1"]


async def test_a_long_wait_is_a_row_until_the_sweep(backends: MemoryBackends, clock: Clock) -> None:
    """Beyond that it is a row, which the sweep moves when it is due, not before."""
    await park(backends, clock, MAX_DELAY + 60, "u1", "u2")
    clock.time = MAX_DELAY
    assert await sweep(units=backends.queue("units"), state=backends.state, now=clock.now()) == 0
    clock.time = MAX_DELAY + 121
    assert await sweep(units=backends.queue("units"), state=backends.state, now=clock.now()) == 2
    assert sorted(await units_received(backends)) == ["u1", "u2"]
    assert await sweep(units=backends.queue("units"), state=backends.state, now=clock.now()) == 0


async def test_a_late_row_is_found_whatever_its_bucket(backends: MemoryBackends, clock: Clock) -> None:
    """The sweep looks at every bucket up to now: a row that appears in a past one is not lost."""
    clock.time = 100_000
    await sweep(units=backends.queue("units"), state=backends.state, now=clock.now())
    entry = encode(UnitEntry(units=(unit("a@x.test", identity="late"),)))
    await backends.state.put_if_absent("due/0", f"{due_minute(NOW)}/late", entry)
    await sweep(units=backends.queue("units"), state=backends.state, now=clock.now())
    assert await units_received(backends) == ["late"]


async def test_parks_of_one_bucket_share_a_row(backends: MemoryBackends, clock: Clock) -> None:
    """Whoever parks them within the window."""
    parks = parks_of(backends, clock, window=0.01)
    await asyncio.gather(*(parks.write(due_in(MAX_DELAY + 60, f"u{n}")) for n in range(5)))
    assert len(backends.state.rows) == 1


async def test_a_repeated_park_is_a_row_of_its_own(backends: MemoryBackends, clock: Clock) -> None:
    """A repeat overwrites nobody's park; the copies of a unit share its plan."""
    parks = parks_of(backends, clock)
    for _ in range(2):
        await parks.write(due_in(MAX_DELAY + 60, "u1"))
    clock.time = MAX_DELAY + 121
    await sweep(units=backends.queue("units"), state=backends.state, now=clock.now())
    assert await units_received(backends) == ["u1", "u1"]


async def test_rows_stay_small(backends: MemoryBackends, clock: Clock) -> None:
    """Parks beyond a row's size go into another."""
    addresses = [f"{'a' * 200}{n}@x.test" for n in range(400)]
    large = [Park(NOW + MAX_DELAY + 60, unit(*addresses, identity=f"u{n}")) for n in range(4)]
    await parks_of(backends, clock).write(large)
    rows = backends.state.rows.values()
    assert len(rows) == 4
    assert all(len(row.body) < ROW_BYTES for row in rows)


def test_a_merged_entry_has_one_tenant() -> None:
    """The sweep merges parks of one tenant and keeps tenants apart."""
    units = [Unit(f"u{n}", tenant, unit("a@x.test").groups) for n, tenant in enumerate((1, 2, 1))]
    assert {entry.group: len(decode_unit_entry(entry.body).units) for entry in merge(units)} == {"1": 2, "2": 1}


@given(st.floats(1e9, 4e9))
def test_a_bucket_ends_after_what_it_holds(due: float) -> None:
    """Nothing is swept before it is due, nor more than a minute late."""
    assert due <= int(due_minute(due)) * 60 < due + 60

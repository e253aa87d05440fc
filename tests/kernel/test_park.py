from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mail import NOW, unit
from support.memory_backends import MemoryBackends

from postfleet.park import Park, due_minute, merge, send_parks, sweep
from postfleet.ports import MAX_DELAY, Row
from postfleet.stages import UnitEntry, decode_unit_entry, encode


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


async def park(backends: MemoryBackends, clock: Clock, seconds: float, *identities: str) -> None:
    parks = [Park(clock.now() + seconds, unit("a@x.test", identity=identity)) for identity in identities]
    await send_parks(parks, units=backends.queue("units"), state=backends.state, now=clock.now())


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


def test_a_merged_entry_has_one_tenant() -> None:
    """The sweep merges rows of one tenant and keeps tenants apart."""
    rows = []
    for n, tenant in enumerate((1, 2, 1)):
        parked = unit("a@x.test", identity=f"u{n}")
        body = encode(UnitEntry(units=(type(parked)(parked.id, tenant, parked.groups),)))
        rows.append(Row("due/0", str(n), 1, body))
    assert {entry.group: len(decode_unit_entry(entry.body).units) for entry in merge(rows)} == {"1": 2, "2": 1}


@given(st.floats(1e9, 4e9))
def test_a_bucket_ends_after_what_it_holds(due: float) -> None:
    """Nothing is swept before it is due, nor more than a minute late."""
    assert due <= int(due_minute(due)) * 60 < due + 60

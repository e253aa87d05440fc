from __future__ import annotations

import asyncio

import pytest

from postfleet.gather import Gatherer


class Store:
    """Notes each write; `busy` holds them up."""

    def __init__(self) -> None:
        self.writes: list[list[int]] = []
        self.free = asyncio.Event()
        self.free.set()
        self.error: Exception | None = None

    async def write(self, things: list[int]) -> None:
        await self.free.wait()
        if self.error is not None:
            raise self.error
        self.writes.append(things)


async def test_without_a_window_each_put_is_a_write() -> None:
    """Nothing is gathered, and nobody waits for another's write."""
    store = Store()
    gatherer = Gatherer(store.write)
    await asyncio.gather(gatherer.put([1]), gatherer.put([2, 3]))
    assert store.writes == [[1], [2, 3]]


async def test_what_comes_during_a_write_is_the_next_one() -> None:
    """One write at a time takes all that waited."""
    store = Store()
    gatherer = Gatherer(store.write, busy_window=0.001)
    store.free.clear()
    puts = [asyncio.create_task(gatherer.put([0]))]
    await asyncio.sleep(0.01)
    puts += [asyncio.create_task(gatherer.put([n])) for n in (1, 2)]
    await asyncio.sleep(0)
    store.free.set()
    await asyncio.gather(*puts)
    assert store.writes == [[0], [1, 2]]


async def test_a_lone_put_does_not_wait() -> None:
    """The busy window counts only after a write that carried several puts."""
    store = Store()
    gatherer = Gatherer(store.write, busy_window=60.0)
    for n in range(3):
        await asyncio.wait_for(gatherer.put([n]), 1.0)
    assert store.writes == [[0], [1], [2]]


async def test_after_a_crowd_the_next_write_waits_for_more() -> None:
    """Puts within the busy window become one write."""
    store = Store()
    gatherer = Gatherer(store.write, busy_window=0.05)
    await asyncio.gather(gatherer.put([1]), gatherer.put([2]))
    late = asyncio.create_task(gatherer.put([3]))
    await asyncio.sleep(0.01)
    await asyncio.gather(late, gatherer.put([4]))
    assert store.writes == [[1, 2], [3, 4]]


async def test_a_failure_is_told_to_all() -> None:
    """Each put of a failed write raises, and the next write is tried anew."""
    store = Store()
    store.error = ValueError("no")
    gatherer = Gatherer(store.write, busy_window=0.001)
    results = await asyncio.gather(gatherer.put([1]), gatherer.put([2]), return_exceptions=True)
    assert [str(result) for result in results] == ["no", "no"]
    store.error = None
    await gatherer.put([3])
    assert store.writes == [[3]]


async def test_who_gives_up_harms_nobody() -> None:
    """A cancelled put leaves the others of its write alone."""
    store = Store()
    gatherer = Gatherer(store.write, busy_window=0.001)
    store.free.clear()
    first, second = asyncio.create_task(gatherer.put([1])), asyncio.create_task(gatherer.put([2]))
    await asyncio.sleep(0.01)
    first.cancel()
    store.free.set()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first
    assert store.writes == [[1, 2]]

from __future__ import annotations

import asyncio
import random

import pytest
from support.memory_backends import MemoryBackends

from postfleet.accept import SLOW_ARRIVAL, UNITS, Acceptor
from postfleet.settings import Settings
from postfleet.stages import Message, Submission


class HandClock:
    time = 0.0

    def now(self) -> float:
        return 1_800_000_000.0 + self.time

    def mono(self) -> float:
        return self.time


class Desk:
    """An acceptor and what it commits."""

    def __init__(self, gather: float) -> None:
        self.clock = HandClock()
        self.stores = MemoryBackends(self.clock, 60.0)
        self.acceptor = Acceptor(
            blobs=self.stores.blobs,
            units=self.stores.queue(UNITS),
            state=self.stores.state,
            clock=self.clock,
            settings=Settings(accept_gather=gather),
            rng=random.Random(1),
        )

    def submit(self) -> asyncio.Future[None]:
        identity = self.acceptor.new_id()
        messages = (Message(0, "u@x.test"),)
        return self.acceptor.submit(Submission(identity, 0, b"content", "raw", messages, "shop.example", "b.example"))

    async def entries(self) -> int:
        return (await self.stores.queue(UNITS).stats()).visible


async def settled() -> None:
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
def desk() -> Desk:
    return Desk(gather=30.0)


async def test_a_commit_waits_for_messages_that_have_begun(desk: Desk) -> None:
    """Both go into one entry."""
    desk.acceptor.announce("second")
    first = desk.submit()
    await settled()
    assert not first.done()
    desk.acceptor.arrived("second")
    await asyncio.gather(first, desk.submit())
    assert await desk.entries() == 1


async def test_nobody_waits_for_a_message_that_will_not_come(desk: Desk) -> None:
    """When the last client that was waited for gave up, the commit starts."""
    desk.acceptor.announce("gone")
    first = desk.submit()
    await settled()
    desk.acceptor.arrived("gone")
    await asyncio.wait_for(first, 5)


async def test_a_slow_message_delays_nobody(desk: Desk) -> None:
    """One that has been arriving for long is not waited for."""
    desk.acceptor.announce("slow")
    desk.clock.time += SLOW_ARRIVAL + 0.01
    await asyncio.wait_for(desk.submit(), 5)


async def test_a_commit_waits_no_longer_than_the_setting() -> None:
    """Then those that are here go without the rest."""
    desk = Desk(gather=0.01)
    desk.acceptor.announce("late")
    await asyncio.wait_for(desk.submit(), 5)
    assert await desk.entries() == 1


async def test_a_lone_submission_waits_for_nothing(desk: Desk) -> None:
    """Nothing was announced: the commit starts at once."""
    await asyncio.wait_for(desk.submit(), 5)

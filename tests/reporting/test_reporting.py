from __future__ import annotations

from support.mail import NOW, transmission, unit
from support.memory_backends import MemoryBackends

from postfleet.event_log import read_events
from postfleet.events import EVENTS, EventWriter, event_id, mail_event
from postfleet.settings import DAY, Settings
from postfleet.stages import Event
from reporting.merge import merged
from reporting.service import Reporting


class Clock:
    def __init__(self) -> None:
        self.wall = NOW

    def now(self) -> float:
        return self.wall

    def mono(self) -> float:
        return 0.0


class Rig:
    """A writer and the reporting service on stores in memory."""

    def __init__(self) -> None:
        import random

        self.clock = Clock()
        self.backends = MemoryBackends(self.clock)
        settings = Settings(events_window=0.0)
        self.writer = EventWriter(
            blobs=self.backends.blobs,
            announcements=self.backends.queue(EVENTS),
            clock=self.clock,
            settings=settings,
            rng=random.Random(1),
        )
        self.reporting = Reporting(self.backends, clock=self.clock, settings=settings)

    async def merge(self) -> None:
        await self.reporting.merge(await self.backends.queue(EVENTS).receive(100, 0))

    async def read(self, containing: str = "") -> list[str]:
        return sorted([event.event_id async for event in read_events(self.backends.blobs, containing=containing)])


def event(name: str) -> Event:
    message = unit("a@x.test").groups[0].messages[0]
    return mail_event(name, "delivery", NOW, transmission(), message)


async def test_events_are_read_before_and_after_the_merge() -> None:
    """A reader finds every event once, wherever it stands."""
    rig = Rig()
    await rig.writer.write([event("1"), event("2")])
    await rig.writer.write([event("3")])
    assert await rig.read() == ["1", "2", "3"]
    await rig.merge()
    assert await rig.read() == ["1", "2", "3"]
    assert not await rig.backends.blobs.list("events/new/")


async def test_what_was_written_twice_is_kept_once() -> None:
    """A repeated step writes the same event ids, and they are dropped."""
    rig = Rig()
    await rig.writer.write([event("1")])
    await rig.writer.write([event("1")])
    await rig.merge()
    (key,) = await rig.backends.blobs.list("events/log/")
    assert (await rig.backends.blobs.get(key)).count(b"\n") == 1


async def test_an_announcement_that_comes_again_is_harmless() -> None:
    """A merge that was interrupted before its ack is repeated, and one that was done finds nothing to do."""
    rig = Rig()
    await rig.writer.write([event("1")])
    entries = await rig.backends.queue(EVENTS).receive(100, 0)
    await rig.reporting.merge(entries)
    await rig.reporting.merge(entries)
    assert await rig.read() == ["1"]


async def test_reading_can_be_narrowed() -> None:
    """`containing` leaves out events that do not mention it."""
    rig = Rig()
    await rig.writer.write([event("11"), event("22")])
    assert await rig.read(containing='"22"') == ["22"]


async def test_old_events_go() -> None:
    """Merged segments past the retention are removed."""
    rig = Rig()
    await rig.writer.write([event("1")])
    await rig.merge()
    rig.clock.wall += 11 * DAY
    await rig.reporting._expire()
    assert await rig.read() == []


def test_merging_keeps_the_first_of_each_id() -> None:
    """Segments are joined line by line."""
    assert merged([b'{"event_id":"1","a":1}\n', b'{"event_id":"1","a":2}\n{"event_id":"2"}\n']) == (
        b'{"event_id":"1","a":1}\n{"event_id":"2"}\n'
    )


def test_event_ids_are_digits() -> None:
    """They derive from their parts alone."""
    assert event_id("u/0", 3, "delivered").isdigit()
    assert event_id("u/0", 3, "delivered") == event_id("u/0", 3, "delivered") != event_id("u/0", 4, "delivered")

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from msgspec.structs import replace

from postfleet.backends.local import LocalBackends, open_local
from postfleet.clock import SystemClock
from postfleet.consume import Consumer, trouble_delay
from postfleet.ports import MAX_DELAY, Outgoing, Received, Unavailable
from postfleet.settings import DAY


def consumer_of(backends: LocalBackends, handle: Callable[[bytes], Awaitable[float | None]]) -> Consumer[bytes]:
    def decode(body: bytes) -> Sequence[bytes]:
        return [body]

    return Consumer(backends.queue("q"), decode, handle, room=lambda: 10, extend_every=5.0, linger=0.0)


class Receipts:
    """A queue that hands out what it is given, then nothing, and notes limits and acks."""

    def __init__(self, *replies: int) -> None:
        self._replies = list(replies)
        self._handed_out = 0
        self.limits: list[int] = []
        self.acks: list[int] = []
        self.all_acked = asyncio.Event()

    async def receive(self, limit: int, wait: float) -> list[Received]:
        self.limits.append(limit)
        if not self._replies:
            await asyncio.get_running_loop().create_future()
        handles = range(self._handed_out, self._handed_out + self._replies.pop(0))
        self._handed_out = handles.stop
        return [Received(b"", f"{handle}", 1) for handle in handles]

    async def ack(self, handles: Sequence[str]) -> None:
        self.acks.append(len(handles))
        if sum(self.acks) == self._handed_out and not self._replies:
            self.all_acked.set()


async def consumed(queue: Receipts, room: Callable[[Consumer[bytes]], int], **options: float) -> None:
    """Until all is acked."""

    async def done(thing: bytes) -> None:
        return None

    consumer = Consumer[bytes](
        queue,  # type: ignore[arg-type]
        lambda body: [body],
        done,
        room=lambda: room(consumer),
        extend_every=60.0,
        **options,  # type: ignore[arg-type]
    )
    running = asyncio.create_task(consumer.run())
    await asyncio.wait_for(queue.all_acked.wait(), 5.0)
    consumer.stop()
    await running


async def test_a_full_receive_is_followed_at_once() -> None:
    """Lingering is for what came in part: where more waits, it is taken."""
    await consumed(Receipts(10, 10, 10), lambda consumer: 100, linger=60.0)


async def test_acks_share_a_request_under_load() -> None:
    """Those of what is done at about the same time."""
    queue = Receipts(10, 5)
    await consumed(queue, lambda consumer: 100, linger=0.0, ack_window=0.01)
    assert len(queue.acks) <= 4
    assert sum(queue.acks) == 15


async def test_the_load_is_what_is_in_hand() -> None:
    """Things count by their weight, as long as they are handled."""
    loads: list[int] = []
    begun = asyncio.Event()

    async def handle(thing: bytes) -> None:
        loads.append(consumer.load)
        begun.set()

    consumer = Consumer[bytes](
        Receipts(1),  # type: ignore[arg-type]
        lambda body: [b"one", b"three"],
        handle,
        room=lambda: 1,
        extend_every=60.0,
        linger=0.0,
        weigh=len,
    )
    running = asyncio.create_task(consumer.run())
    await asyncio.wait_for(begun.wait(), 5.0)
    consumer.stop()
    await running
    assert (loads, consumer.load) == ([8, 8], 0)


async def test_stopping_does_not_wait_for_mail(tmp_path: Path) -> None:
    """A consumer that waits at an empty queue ends at once, and leaves later entries alone."""
    async with await open_local(tmp_path, clock=SystemClock(), visibility=60.0) as backends:

        async def handle(thing: bytes) -> None:
            raise AssertionError("nothing was to be received")

        consumer = consumer_of(backends, handle)
        running = asyncio.create_task(consumer.run())
        await asyncio.sleep(0.05)
        consumer.stop()
        await asyncio.wait_for(running, 1.0)
        await backends.queue("q").send([Outgoing(b"later")])
        assert (await backends.queue("q").stats()).visible == 1


async def test_stopping_finishes_what_was_taken(tmp_path: Path) -> None:
    """The entry under way is handled to its end and acked."""
    async with await open_local(tmp_path, clock=SystemClock(), visibility=60.0) as backends:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def handle(thing: bytes) -> None:
            begun.set()
            await go_on.wait()

        await backends.queue("q").send([Outgoing(b"one")])
        consumer = consumer_of(backends, handle)
        running = asyncio.create_task(consumer.run())
        await begun.wait()
        consumer.stop()
        go_on.set()
        await asyncio.wait_for(running, 1.0)
        stats = await backends.queue("q").stats()
        assert (stats.visible, stats.in_flight) == (0, 0)


class Trouble(Receipts):
    """One entry, received for the 30th time; notes for how long it is given back."""

    def __init__(self) -> None:
        super().__init__(1)
        self.released: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    async def receive(self, limit: int, wait: float) -> list[Received]:
        return [replace(entry, receives=30) for entry in await super().receive(limit, wait)]

    async def release(self, handles: Sequence[str], delay: float = 0.0) -> None:
        self.released.set_result(delay)


async def test_an_entry_in_trouble_comes_back_later_each_time() -> None:
    """The longer it could not be handled, the longer it waits, so that SQS does not count it out."""

    async def handle(thing: bytes) -> None:
        raise Unavailable("the store is away")

    queue = Trouble()
    consumer = Consumer[bytes](
        queue,  # type: ignore[arg-type]
        lambda body: [body],
        handle,
        room=lambda: 1,
        extend_every=60.0,
        linger=0.0,
    )
    running = asyncio.create_task(consumer.run())
    assert await asyncio.wait_for(queue.released, 5.0) == 60.0
    consumer.stop()
    await running


def test_what_an_outage_leaves_of_an_entrys_receives() -> None:
    """More than a week of trouble is less than the 1,000 that SQS allows; no delay is more than a queue takes."""
    delays = [trouble_delay(receives) for receives in range(1, 1000)]
    assert sum(delays) > 7 * DAY
    assert max(delays) == MAX_DELAY

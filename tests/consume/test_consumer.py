from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

from postfleet.backends.local import LocalBackends, open_local
from postfleet.clock import SystemClock
from postfleet.consume import Consumer
from postfleet.ports import Outgoing


def consumer_of(backends: LocalBackends, handle: Callable[[bytes], Awaitable[float | None]]) -> Consumer[bytes]:
    def decode(body: bytes) -> Sequence[bytes]:
        return [body]

    return Consumer(backends.queue("q"), decode, handle, room=lambda: 10, extend_every=5.0, linger=0.0)


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

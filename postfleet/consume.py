"""Take containers from a queue, handle what is in them, ack each when every thing in it is done."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

import structlog

from postfleet.gather import Gatherer
from postfleet.ports import MAX_DELAY, Received, StorageError, WorkQueue

log = structlog.get_logger()

T = TypeVar("T")

RECEIVE_WAIT = 20.0
"""As long as SQS waits, seconds."""
UNREADABLE_DELAY = 900.0
TROUBLE_DELAY = 2.0
"""Seconds for each time that the entry has been received, up to a queue's longest delay: SQS moves an entry away at its
1,000th receive, which is then more than a week of trouble away.
"""


class Consumer(Generic[T]):
    """Capacity before work: receives only while `room()` is positive.

    After a receive that found something, but not all that it could take, the
    next one waits for `linger` seconds: under load the store works in fewer,
    larger steps, and a lone entry is taken at once. So do acks within `ack_window`.

    `handle` returns None when the thing is done, durably, or the seconds after
    which the whole entry shall come back.
    """

    def __init__(
        self,
        queue: WorkQueue,
        decode: Callable[[bytes], Sequence[T]],
        handle: Callable[[T], Awaitable[float | None]],
        *,
        room: Callable[[], int],
        extend_every: float,
        linger: float,
        ack_window: float = 0.0,
        batch: int = 10,
        weigh: Callable[[T], int] = lambda thing: 1,
        freed: asyncio.Event | None = None,
    ) -> None:
        """Consumers that share their room share `freed`: it is set whenever one of them has let go of an entry."""
        self._queue = queue
        self._decode = decode
        self._handle = handle
        self._room = room
        self._extend_every = extend_every
        self._linger = linger
        self._batch = batch
        self._weigh = weigh
        self.load = 0
        """Weight of the things in hand."""
        self._acks = Gatherer(queue.ack, busy_window=ack_window)
        self._entries: dict[str, asyncio.Task[None]] = {}
        self._freed = freed or asyncio.Event()
        self._receiving: asyncio.Future[list[Received]] | None = None
        self._stopping = False

    @property
    def in_flight(self) -> int:
        return len(self._entries)

    async def run(self) -> None:
        """Until `stop`; then returns when what was taken is finished."""
        extender = asyncio.create_task(self._extend_leases())
        try:
            while not self._stopping:
                await self._receive()
            await asyncio.gather(*self._entries.values(), return_exceptions=True)
        finally:
            extender.cancel()

    def stop(self) -> None:
        self._stopping = True
        self._freed.set()
        if self._receiving is not None:
            self._receiving.cancel()

    async def _receive(self) -> None:
        room = self._room()
        if room <= 0:
            self._freed.clear()
            await self._freed.wait()
            return
        try:
            most = min(room, self._batch)
            entries = await self._received(most)
        except StorageError as error:
            log.warning("receive_failed", error=str(error))
            await asyncio.sleep(TROUBLE_DELAY)
            return
        for entry in entries:
            task = asyncio.create_task(self._run_entry(entry))
            self._entries[entry.handle] = task
        if entries and len(entries) < most:
            await asyncio.sleep(self._linger)

    async def _received(self, most: int) -> list[Received]:
        """Nothing when `stop` came first."""
        self._receiving = asyncio.ensure_future(self._queue.receive(most, RECEIVE_WAIT))
        try:
            await asyncio.wait([self._receiving])
            return [] if self._receiving.cancelled() else self._receiving.result()
        finally:
            self._receiving.cancel()
            self._receiving = None

    async def _run_entry(self, entry: Received) -> None:
        try:
            delay = await self._handle_all(entry)
            if delay is None:
                await self._acks.put([entry.handle])
            else:
                await self._queue.release([entry.handle], delay)
        except StorageError as error:
            log.warning("entry_left_to_its_lease", error=str(error))
        finally:
            self._entries.pop(entry.handle, None)
            self._freed.set()

    async def _handle_all(self, entry: Received) -> float | None:
        try:
            things = self._decode(entry.body)
        except Exception as error:
            log.error("entry_unreadable", error=str(error), receives=entry.receives, body=entry.body[:200])
            return UNREADABLE_DELAY
        weight = sum(map(self._weigh, things))
        self.load += weight
        try:
            if len(things) == 1:
                return await self._handle_one(things[0], entry.receives)
            return entry_delay(await asyncio.gather(*(self._handle_one(each, entry.receives) for each in things)))
        finally:
            self.load -= weight

    async def _handle_one(self, thing: T, receives: int) -> float | None:
        try:
            return await self._handle(thing)
        except StorageError as error:
            log.warning("store_did_not_answer", error=str(error))
        except Exception:
            log.exception("handling_failed")
        return trouble_delay(receives)

    async def _extend_leases(self) -> None:
        while True:
            await asyncio.sleep(self._extend_every)
            try:
                await self._queue.extend(list(self._entries))
            except StorageError as error:
                log.warning("extend_failed", error=str(error))


def trouble_delay(receives: int) -> float:
    return min(TROUBLE_DELAY * receives, MAX_DELAY)


def entry_delay(delays: Sequence[float | None]) -> float | None:
    """What to do with an entry: None (ack) only when each of its things is done."""
    return min((delay for delay in delays if delay is not None), default=None)

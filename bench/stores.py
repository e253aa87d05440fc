"""The ports in memory for runs of a hundred thousand messages: no call looks at more than what it takes or finds."""

from __future__ import annotations

import asyncio
import heapq
from bisect import bisect_left, insort
from collections import defaultdict, deque
from collections.abc import Sequence

from support.memory_backends import MemoryBlobs, MemoryState

from postfleet.clock import Clock
from postfleet.ports import Outgoing, QueueStats, Received, Row, Written


class _Entry:
    __slots__ = ("body", "due", "group", "receives")

    def __init__(self, body: bytes, group: str) -> None:
        self.body = body
        self.group = group
        self.receives = 0
        self.due = 0.0


class BenchQueue:
    """In order of arrival. A hidden entry is in `_hidden` once for each time that it was hidden."""

    def __init__(self, clock: Clock, visibility: float) -> None:
        self._clock = clock
        self._visibility = visibility
        self._entries: dict[int, _Entry] = {}
        self._visible: deque[int] = deque()
        self._hidden: list[tuple[float, int]] = []
        self._sent = 0
        self._news = asyncio.Event()

    def __len__(self) -> int:
        return len(self._entries)

    async def send(self, entries: Sequence[Outgoing]) -> None:
        for entry in entries:
            self._sent += 1
            self._entries[self._sent] = _Entry(entry.body, entry.group)
            self._hide(self._sent, entry.delay)
        self._news.set()

    async def receive(self, limit: int, wait: float) -> list[Received]:
        deadline = self._clock.mono() + wait
        while not (received := self._take(limit)) and (now := self._clock.mono()) < deadline:
            self._news.clear()
            due = self._hidden[0][0] if self._hidden else deadline
            try:
                async with asyncio.timeout(max(min(deadline, due) - now, 0.0)):
                    await self._news.wait()
            except TimeoutError:
                continue
        return received

    async def extend(self, handles: Sequence[str]) -> None:
        for number in self._named(handles):
            self._hide(number, self._visibility)

    async def ack(self, handles: Sequence[str]) -> None:
        for number in self._named(handles):
            del self._entries[number]

    async def release(self, handles: Sequence[str], delay: float = 0.0) -> None:
        for number in self._named(handles):
            self._hide(number, delay)
        self._news.set()

    async def stats(self) -> QueueStats:
        self._surface()
        visible = sum(number in self._entries for number in self._visible)
        return QueueStats(visible, len(self._entries) - visible, 0)

    def _hide(self, number: int, seconds: float) -> None:
        due = self._clock.mono() + seconds
        self._entries[number].due = due
        heapq.heappush(self._hidden, (due, number))

    def _surface(self) -> None:
        now = self._clock.mono()
        while self._hidden and self._hidden[0][0] <= now:
            due, number = heapq.heappop(self._hidden)
            entry = self._entries.get(number)
            if entry is not None and entry.due == due:
                self._visible.append(number)

    def _take(self, limit: int) -> list[Received]:
        self._surface()
        received: list[Received] = []
        while self._visible and len(received) < limit:
            number = self._visible.popleft()
            entry = self._entries.get(number)
            if entry is not None:
                entry.receives += 1
                self._hide(number, self._visibility)
                received.append(Received(entry.body, f"{number}.{entry.receives}", entry.receives, entry.group))
        return received

    def _named(self, handles: Sequence[str]) -> list[int]:
        named = [tuple(map(int, handle.split("."))) for handle in handles]
        return [number for number, receives in named if self._receives(number) == receives]

    def _receives(self, number: int) -> int:
        entry = self._entries.get(number)
        return entry.receives if entry else 0


class BenchBlobs(MemoryBlobs):
    async def append(self, key: str, data: bytes) -> tuple[str, int]:
        """A blob each, as on S3."""
        await self.put(key, data)
        return key, 0


class BenchState(MemoryState):
    """Knows the sort keys of each partition."""

    def __init__(self) -> None:
        super().__init__()
        self._sorts: defaultdict[str, list[str]] = defaultdict(list)

    async def delete_if(self, expected: Row) -> bool:
        there = (expected.partition, expected.sort) in self.rows
        gone = await super().delete_if(expected)
        if there and gone:
            sorts = self._sorts[expected.partition]
            del sorts[bisect_left(sorts, expected.sort)]
        return gone

    async def query(
        self,
        partition: str,
        *,
        prefix: str = "",
        start: str = "",
        end: str | None = None,
        limit: int = 1000,
        descending: bool = False,
    ) -> list[Row]:
        sorts = self._sorts[partition]
        first = bisect_left(sorts, max(start, prefix))
        last = len(sorts) if end is None else bisect_left(sorts, end)
        found = [sort for sort in sorts[first:last] if sort.startswith(prefix)]
        return [self.rows[partition, sort] for sort in sorted(found, reverse=descending)[:limit]]

    def _write(self, allowed: bool, row: Row) -> Written:
        new = (row.partition, row.sort) not in self.rows
        written = super()._write(allowed, row)
        if written.ok and new:
            insort(self._sorts[row.partition], row.sort)
        return written


class BenchBackends:
    def __init__(self, clock: Clock, visibility: float) -> None:
        self.clock = clock
        self.blobs = BenchBlobs()
        self.state = BenchState()
        self.queues: dict[str, BenchQueue] = {}
        self._visibility = visibility

    def queue(self, name: str) -> BenchQueue:
        if name not in self.queues:
            self.queues[name] = BenchQueue(self.clock, self._visibility)
        return self.queues[name]

    async def close(self) -> None:
        """Memory goes by itself."""

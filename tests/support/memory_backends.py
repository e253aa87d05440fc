"""The ports in memory, deterministic: for the simulation.

Each call takes effect in one step, without awaiting anything between looking and doing. Time is the clock that is
passed in; waiting receivers sleep on the running loop, whose time must be that clock's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from postfleet.clock import Clock
from postfleet.ports import (
    MAX_DELAY,
    MAX_ENTRY,
    MAX_ROW,
    NotFound,
    Outgoing,
    QueueStats,
    Received,
    Row,
    TooLarge,
    Written,
)

Choose = Callable[[int], int]
"""Given n, which of n receivable entries comes next: 0 is the one that is due by turn."""


def by_turn(n: int) -> int:
    return 0


class MemoryBlobs:
    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes) -> None:
        self.blobs[key] = bytes(data)

    async def append(self, key: str, data: bytes) -> tuple[str, int]:
        """All of a directory go to one blob."""
        shared = f"{key.rpartition('/')[0]}/shared"
        offset = len(self.blobs.setdefault(shared, b""))
        self.blobs[shared] += data
        return shared, offset

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        created = key not in self.blobs
        self.blobs.setdefault(key, bytes(data))
        return created

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if key not in self.blobs:
            raise NotFound(f"blob {key}: not there")
        return self.blobs[key][offset : None if length is None else offset + length]

    async def list(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        return sorted(key for key in self.blobs if key.startswith(prefix) and key > after)[:limit]

    async def delete(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.blobs.pop(key, None)


@dataclass
class Entry:
    body: bytes
    group: str
    due: float
    receives: int = 0
    leased: bool = False


class MemoryQueue:
    def __init__(self, clock: Clock, visibility: float, choose: Choose) -> None:
        self.entries: dict[int, Entry] = {}
        self._clock = clock
        self._visibility = visibility
        self._choose = choose
        self._sent = 0
        self._turn = 0
        self._served: dict[str, int] = {}
        self._news = asyncio.Event()

    async def send(self, entries: Sequence[Outgoing]) -> None:
        for entry in entries:
            if len(entry.body) > MAX_ENTRY:
                raise TooLarge(f"an entry holds more than {MAX_ENTRY} bytes")
            _check_delay(entry.delay)
        for entry in entries:
            self._sent += 1
            self.entries[self._sent] = Entry(entry.body, entry.group, self._clock.mono() + entry.delay)
        self._news.set()

    async def receive(self, limit: int, wait: float) -> list[Received]:
        deadline = self._clock.mono() + wait
        while not (received := self._take(limit)) and (now := self._clock.mono()) < deadline:
            self._news.clear()
            hidden = [entry.due for entry in self.entries.values() if entry.due > now]
            await _set_within(self._news, min([deadline, *hidden]) - now)
        return received

    async def extend(self, handles: Sequence[str]) -> None:
        for entry in self._named(handles):
            entry.due = self._clock.mono() + self._visibility
            entry.leased = True
        self._news.set()

    async def ack(self, handles: Sequence[str]) -> None:
        for handle in handles:
            if self._named([handle]):
                del self.entries[_parsed(handle)[0]]

    async def release(self, handles: Sequence[str], delay: float = 0.0) -> None:
        _check_delay(delay)
        for entry in self._named(handles):
            entry.due = self._clock.mono() + delay
            entry.leased = False
        self._news.set()

    async def stats(self) -> QueueStats:
        now = self._clock.mono()
        hidden = [entry for entry in self.entries.values() if entry.due > now]
        in_flight = sum(entry.leased for entry in hidden)
        return QueueStats(len(self.entries) - len(hidden), in_flight, len(hidden) - in_flight)

    def _named(self, handles: Sequence[str]) -> list[Entry]:
        named = [(self.entries.get(number), receives) for number, receives in map(_parsed, handles)]
        return [entry for entry, receives in named if entry and entry.receives == receives]

    def _take(self, limit: int) -> list[Received]:
        received: list[Received] = []
        while len(received) < limit and (ready := self._ready()):
            number = ready[self._choose(len(ready))]
            received.append(self._lease(number))
        return received

    def _ready(self) -> list[int]:
        """Receivable entries, those of the group that has waited longest for its turn first."""
        now = self._clock.mono()
        ready = [(self._served.get(e.group, 0), number) for number, e in self.entries.items() if e.due <= now]
        return [number for _, number in sorted(ready)]

    def _lease(self, number: int) -> Received:
        entry = self.entries[number]
        self._turn += 1
        self._served[entry.group] = self._turn
        entry.due = self._clock.mono() + self._visibility
        entry.leased = True
        entry.receives += 1
        return Received(entry.body, f"{number}.{entry.receives}", entry.receives, entry.group)


class MemoryState:
    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self.counters: dict[tuple[str, str], int] = {}

    async def get(self, partition: str, sort: str) -> Row | None:
        return self.rows.get((partition, sort))

    async def get_many(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Row]:
        return {key: self.rows[key] for key in keys if key in self.rows}

    async def put_if_absent(self, partition: str, sort: str, body: bytes, expires: float | None = None) -> Written:
        return self._write(self.rows.get((partition, sort)) is None, Row(partition, sort, 1, body, expires))

    async def put_if(self, expected: Row, body: bytes, expires: float | None = None) -> Written:
        row = Row(expected.partition, expected.sort, expected.version + 1, body, expires)
        return self._write(self._stands(expected), row)

    async def delete_if(self, expected: Row) -> bool:
        if self._stands(expected):
            del self.rows[expected.partition, expected.sort]
        return (expected.partition, expected.sort) not in self.rows

    async def add(self, partition: str, sort: str, amount: int, ceiling: int, expires: float | None = None) -> int:
        value = self.counters.get((partition, sort), 0)
        added = max(0, min(amount, ceiling - value))
        self.counters[partition, sort] = value + added
        return added

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
        keys = [
            (name, sort)
            for name, sort in self.rows
            if name == partition and sort.startswith(prefix) and sort >= start and (end is None or sort < end)
        ]
        return [self.rows[key] for key in sorted(keys, reverse=descending)[:limit]]

    def _stands(self, expected: Row) -> bool:
        current = self.rows.get((expected.partition, expected.sort))
        return current is not None and current.version == expected.version

    def _write(self, allowed: bool, row: Row) -> Written:
        if len(row.body) > MAX_ROW:
            raise TooLarge(f"row {row.partition} {row.sort}: {len(row.body)} bytes are over {MAX_ROW}")
        if not allowed:
            return Written(False, self.rows.get((row.partition, row.sort)))
        self.rows[row.partition, row.sort] = row
        return Written(True, row)


@dataclass
class MemoryBackends:
    clock: Clock
    visibility: float = 60.0
    choose: Choose = by_turn
    blobs: MemoryBlobs = field(default_factory=MemoryBlobs)
    state: MemoryState = field(default_factory=MemoryState)
    queues: dict[str, MemoryQueue] = field(default_factory=dict)

    def queue(self, name: str) -> MemoryQueue:
        if name not in self.queues:
            self.queues[name] = MemoryQueue(self.clock, self.visibility, self.choose)
        return self.queues[name]

    async def close(self) -> None:
        pass


def _check_delay(delay: float) -> None:
    if delay > MAX_DELAY:
        raise TooLarge(f"a delay of {delay} s is over {MAX_DELAY} s")


def _parsed(handle: str) -> tuple[int, int]:
    number, _, receives = handle.partition(".")
    return int(number), int(receives)


async def _set_within(event: asyncio.Event, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        pass

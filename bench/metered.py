"""The ports as AWS would serve them: each call takes as long as its requests there, and each request is counted."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench import aws_calls
from bench.aws_calls import SQS_BATCH, AwsCall
from postfleet.backends.aws_ranges import RangeReader
from postfleet.ports import Backends, BlobStore, Outgoing, QueueStats, Received, Row, StateTable, WorkQueue, Written
from postfleet.providers import LANES

LONGEST_POLL = 20.0
LATENCY = {"sqs": 0.012, "s3": 0.035, "dynamodb": 0.006}
"""Seconds that a request takes within a region, about."""
LANE = "lane"
"""All queues of Orders are one kind on the bill."""


class Line(NamedTuple):
    """Requests of one kind on the bill."""

    process: str
    service: str
    operation: str
    about: str
    """Queue, partition or blob prefix."""


class Meter:
    """Counts while `on`."""

    def __init__(self) -> None:
        self.on = False
        self.calls: Counter[Line] = Counter()
        self.units: defaultdict[Line, float] = defaultdict(float)
        self.dollars: defaultdict[Line, float] = defaultdict(float)

    def count(self, process: str, about: str, call: AwsCall) -> None:
        if self.on:
            line = Line(process, call.service, call.operation, about)
            self.calls[line] += 1
            self.units[line] += call.units
            self.dollars[line] += call.dollars


class MeteredBackends:
    """`Backends` of one process. `latency`: seconds of a request that `stores` does not take itself, by service."""

    def __init__(self, process: str, stores: Backends, meter: Meter, latency: Mapping[str, float] = LATENCY) -> None:
        self._stores = stores
        self._counter = Counted(process, meter, latency)
        self.blobs: BlobStore = MeteredBlobs(stores.blobs, self._counter)
        self.state: StateTable = MeteredState(stores.state, self._counter)

    def queue(self, name: str) -> WorkQueue:
        return MeteredQueue(name, self._stores.queue(name), self._counter)

    async def close(self) -> None:
        """The stores outlive their users."""


class Counted:
    """The requests of one process."""

    def __init__(self, process: str, meter: Meter, latency: Mapping[str, float]) -> None:
        self._process = process
        self._meter = meter
        self._latency = latency

    async def __call__(self, about: str, calls: Sequence[AwsCall]) -> None:
        """Requests of one port call go out at the same time."""
        for call in calls:
            self._meter.count(self._process, about, call)
        if calls and self._latency:
            await asyncio.sleep(self._latency[calls[0].service])


class MeteredBlobs:
    def __init__(self, store: BlobStore, spend: Counted) -> None:
        self._store = store
        self._spend = spend
        self._ranges = RangeReader(self._read)

    async def put(self, key: str, data: bytes) -> None:
        await self._store.put(key, data)
        await self._spend(_kind(key), [aws_calls.put_object()])

    async def append(self, key: str, data: bytes) -> tuple[str, int]:
        place = await self._store.append(key, data)
        await self._spend(_kind(key), [aws_calls.put_object()])
        return place

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        created = await self._store.put_if_absent(key, data)
        await self._spend(_kind(key), [aws_calls.put_object()])
        return created

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        if length is None:
            return await self._read(key, offset, None)
        return await self._ranges.get(key, offset, length)

    async def _read(self, key: str, offset: int, length: int | None) -> bytes:
        data = await self._store.get(key, offset, length)
        await self._spend(_kind(key), [aws_calls.get_object()])
        return data

    async def list(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        keys = await self._store.list(prefix, after, limit)
        await self._spend(_kind(prefix), aws_calls.list_objects(len(keys)))
        return keys

    async def delete(self, keys: Sequence[str]) -> None:
        await self._store.delete(keys)
        if keys:
            await self._spend(_kind(keys[0]), aws_calls.delete_objects(keys))


class MeteredState:
    def __init__(self, store: StateTable, spend: Counted) -> None:
        self._store = store
        self._spend = spend

    async def get(self, partition: str, sort: str) -> Row | None:
        row = await self._store.get(partition, sort)
        await self._spend(_kind(partition), [aws_calls.get_item(_size(row))])
        return row

    async def get_many(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Row]:
        rows = await self._store.get_many(keys)
        if keys:
            await self._spend(_kind(keys[0][0]), aws_calls.batch_get(list(rows.values()), len(keys)))
        return rows

    async def put_if_absent(self, partition: str, sort: str, body: bytes, expires: float | None = None) -> Written:
        size = aws_calls.item_size(partition, sort, body)
        written = await self._store.put_if_absent(partition, sort, body, expires)
        await self._spend(_kind(partition), [aws_calls.put_item(size)])
        return written

    async def put_if(self, expected: Row, body: bytes, expires: float | None = None) -> Written:
        size = aws_calls.item_size(expected.partition, expected.sort, body)
        written = await self._store.put_if(expected, body, expires)
        await self._spend(_kind(expected.partition), [aws_calls.put_item(size, _size(expected))])
        return written

    async def delete_if(self, expected: Row) -> bool:
        gone = await self._store.delete_if(expected)
        await self._spend(_kind(expected.partition), [aws_calls.delete_item(_size(expected))])
        return gone

    async def add(self, partition: str, sort: str, amount: int, ceiling: int, expires: float | None = None) -> int:
        added = await self._store.add(partition, sort, amount, ceiling, expires)
        await self._spend(_kind(partition), [aws_calls.update_item()])
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
        rows = await self._store.query(
            partition, prefix=prefix, start=start, end=end, limit=limit, descending=descending
        )
        await self._spend(_kind(partition), [aws_calls.query(rows)])
        return rows


class MeteredQueue:
    def __init__(self, name: str, store: WorkQueue, spend: Counted) -> None:
        self._name = LANE if name in LANES else name
        self._store = store
        self._spend = spend

    async def send(self, entries: Sequence[Outgoing]) -> None:
        await self._store.send(entries)
        await self._spend(self._name, [aws_calls.send(batch) for batch in aws_calls.send_batches(entries)])

    async def receive(self, limit: int, wait: float) -> list[Received]:
        entries = await self._store.receive(min(limit, SQS_BATCH), min(wait, LONGEST_POLL))
        await self._spend(self._name, [aws_calls.receive(entries)])
        if len(entries) == SQS_BATCH < limit:
            entries += await self._receive_more(limit - SQS_BATCH)
        return entries

    async def _receive_more(self, limit: int) -> list[Received]:
        limits = [min(SQS_BATCH, limit - start) for start in range(0, limit, SQS_BATCH)]
        replies = [await self._store.receive(some, 0.0) for some in limits]
        await self._spend(self._name, [aws_calls.receive(reply) for reply in replies])
        return [entry for reply in replies for entry in reply]

    async def extend(self, handles: Sequence[str]) -> None:
        await self._store.extend(handles)
        await self._spend(self._name, aws_calls.on_handles("ChangeMessageVisibilityBatch", handles))

    async def ack(self, handles: Sequence[str]) -> None:
        await self._store.ack(handles)
        await self._spend(self._name, aws_calls.on_handles("DeleteMessageBatch", handles))

    async def release(self, handles: Sequence[str], delay: float = 0.0) -> None:
        await self._store.release(handles, delay)
        await self._spend(self._name, aws_calls.on_handles("ChangeMessageVisibilityBatch", handles))

    async def stats(self) -> QueueStats:
        return await self._store.stats()


def _size(row: Row | None) -> int:
    return aws_calls.item_size(row.partition, row.sort, row.body) if row is not None else 0


def _kind(name: str) -> str:
    """`claim/1/2` -> `claim`, `events/new/...` -> `events/new`."""
    first, _, rest = name.partition("/")
    return f"{first}/{rest.partition('/')[0]}" if first == "events" else first

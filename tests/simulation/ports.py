"""The three ports of one simulated process, over the stores that all processes share.

A call is a request on its way to a store: it lands after a while, or never, or late, and
what happens at the store goes on whatever becomes of the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, TypeVar

from simulation.faults import FAILED, LATE, LOST, PARTIAL
from simulation.process import EPOCH, SimProcess
from simulation.world import BEFORE, LANDED, REPLIED, Action, Call, World
from support.memory_backends import MemoryBackends

from postfleet.ports import (
    MAX_DELAY,
    Backends,
    BlobStore,
    Outgoing,
    QueueStats,
    Received,
    Row,
    StateTable,
    Unavailable,
    WorkQueue,
    Written,
)

S = TypeVar("S")
Effect = Callable[[], Awaitable[Any]]

STATE_WRITES = frozenset({"state.put_if_absent", "state.put_if", "state.delete_if", "state.add"})
WRITES = STATE_WRITES | {
    "blobs.put",
    "blobs.append",
    "blobs.put_if_absent",
    "blobs.delete",
    "queue.send",
    "queue.extend",
    "queue.ack",
    "queue.release",
}


class StoreClock:
    """The clock of the machines that hold the stores."""

    def __init__(self, world: World) -> None:
        self._loop = world.loop

    def now(self) -> float:
        return EPOCH + self._loop.time()

    def mono(self) -> float:
        return self._loop.time()


def shared_stores(world: World, visibility: float = 60.0) -> MemoryBackends:
    """The stores of a world; a queue hands out its entries in an order that the seed draws."""
    return MemoryBackends(StoreClock(world), visibility, world.rng.randrange)


class SimBackends:
    """`Backends` of one process."""

    def __init__(self, process: SimProcess, stores: Backends) -> None:
        self._process = process
        self._stores = stores
        self.blobs: BlobStore = SimBlobs(process, stores.blobs)
        self.state: StateTable = SimState(process, stores.state)

    def queue(self, name: str) -> WorkQueue:
        return SimQueue(self._process, name, self._stores.queue(name))

    async def close(self) -> None:
        """The stores outlive their users."""


class _Request:
    """A call on its way. It lives outside of the process, which may die meanwhile."""

    def __init__(self, call: Call, effect: Effect, part: Effect | None) -> None:
        self._call = call
        self._world = call.world
        self._effect = effect
        self._part = part
        self._reply: asyncio.Future[Exception | None] = self._world.loop.create_future()
        self._task = self._send(self._travel())

    async def reply(self) -> Any:
        call, process = self._call, self._call.process
        process.outstanding[id(self)] = self
        try:
            error = await self._reply
        finally:
            del process.outstanding[id(self)]
        if error is not None:
            self._world.note(process, call.name, f"{call.key} -> {error!r}")
            raise error
        self._world.fire(REPLIED, call)
        await process.checkpoint()
        return call.result

    # ------------------------------------------------------------ at the store

    async def _travel(self) -> None:
        call = self._call
        await asyncio.sleep(self._world.latency())
        if call.fate in (FAILED, LATE):
            self._turn_away()
        if call.fate == LATE:
            await asyncio.sleep(call.late_by)
        if call.fate != FAILED:
            await self._land()

    async def _land(self) -> None:
        call, error = self._call, None
        effect = self._part if call.fate == PARTIAL and self._part is not None else self._effect
        try:
            call.result = await effect()
        except Exception as raised:
            error = raised
        call.landed = self._world.loop.time()
        self._world.note(call.process, call.name, f"{call.key} {call.fate}: {error or summary(call.result)}")
        if error is None:
            self._landed()
        if call.fate in (LOST, PARTIAL):
            self._turn_away()
        else:
            self._answer_soon(error)

    def _landed(self) -> None:
        if self._call.name in STATE_WRITES:
            self._world.calls.append(self._call)
        self._world.fire(LANDED, self._call)

    def _turn_away(self) -> None:
        call = self._call
        self._answer_soon(Unavailable(f"{call.name} {call.key}: simulated, {call.fate}"))

    def _answer_soon(self, error: Exception | None) -> None:
        self._world.later(self._world.latency() / 2, self._answer, error)

    def _answer(self, error: Exception | None) -> None:
        if not self._reply.done():
            self._reply.set_result(error)

    def _send(self, coro: Any) -> asyncio.Task[None]:
        return self._world.loop.create_task(coro, context=self._world.loop.outside)

    # ------------------------------------------------------------ the process ended

    def owner_crashed(self) -> None:
        """What is under way arrives, is lost, or arrives late, unless a hook has decided that."""
        call = self._call
        if call.directed or call.landed is not None:
            return
        drawn = self._world.rng.random()
        if drawn < 2 / 3:
            self._task.cancel()
        if 1 / 3 < drawn < 2 / 3 and call.name in WRITES and call.fate != FAILED:
            self._task = self._send(self._land_after(self._world.between(self._world.faults.late_by)))

    def owner_exited(self) -> None:
        self.owner_crashed()

    async def _land_after(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
        await self._land()


class _Port:
    def __init__(self, process: SimProcess) -> None:
        self._process = process

    async def _call(
        self,
        name: str,
        key: str,
        args: tuple[Any, ...],
        effect: Effect,
        part: Effect | None = None,
        batch: int = 1,
    ) -> Any:
        process, world = self._process, self._process.world
        await process.checkpoint()
        call = Call(world, process, name, key, args, port=self)
        self._draw_fate(call, batch)
        world.fire(BEFORE, call)
        if not (process.dead and call.directed):
            await process.checkpoint()
        return await _Request(call, effect, part).reply()

    async def _batch(
        self, name: str, key: str, things: Sequence[S], effect: Callable[[Sequence[S]], Awaitable[None]]
    ) -> None:
        async def part() -> None:
            rng = self._process.world.rng
            await effect([thing for thing in things if rng.random() < 0.5])

        await self._call(name, key, (things,), partial(effect, things), part, len(things))

    def _draw_fate(self, call: Call, batch: int) -> None:
        world, faults = call.world, call.world.faults
        if world.throttles(self._process, call.name.partition(".")[0]):
            call.fate = FAILED
            return
        call.fate = faults.fate(world.rng, write=call.name in WRITES, batch=batch)
        call.late_by = world.between(faults.late_by) if call.fate == LATE else 0.0


class SimBlobs(_Port):
    def __init__(self, process: SimProcess, store: BlobStore) -> None:
        super().__init__(process)
        self._store = store

    async def put(self, key: str, data: bytes) -> None:
        await self._call("blobs.put", key, (data,), partial(self._store.put, key, data))

    async def append(self, key: str, data: bytes) -> tuple[str, int]:
        place: tuple[str, int] = await self._call("blobs.append", key, (data,), partial(self._store.append, key, data))
        return place

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        effect = partial(self._store.put_if_absent, key, data)
        created: bool = await self._call("blobs.put_if_absent", key, (data,), effect)
        return created

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        effect = partial(self._store.get, key, offset, length)
        data: bytes = await self._call("blobs.get", key, (offset, length), effect)
        return data

    async def list(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        effect = partial(self._store.list, prefix, after, limit)
        keys: list[str] = await self._call("blobs.list", prefix, (after, limit), effect)
        return keys

    async def delete(self, keys: Sequence[str]) -> None:
        await self._batch("blobs.delete", ",".join(keys), keys, self._store.delete)


class SimState(_Port):
    def __init__(self, process: SimProcess, store: StateTable) -> None:
        super().__init__(process)
        self._store = store

    async def get(self, partition: str, sort: str) -> Row | None:
        effect = partial(self._store.get, partition, sort)
        row: Row | None = await self._call("state.get", f"{partition}/{sort}", (), effect)
        return row

    async def get_many(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Row]:
        effect = partial(self._store.get_many, keys)
        key = ",".join(f"{partition}/{sort}" for partition, sort in keys)
        rows: dict[tuple[str, str], Row] = await self._call("state.get_many", key, (keys,), effect)
        return rows

    async def put_if_absent(self, partition: str, sort: str, body: bytes, expires: float | None = None) -> Written:
        effect = partial(self._store.put_if_absent, partition, sort, body, expires)
        written: Written = await self._call("state.put_if_absent", f"{partition}/{sort}", (body,), effect)
        return written

    async def put_if(self, expected: Row, body: bytes, expires: float | None = None) -> Written:
        effect = partial(self._store.put_if, expected, body, expires)
        key = f"{expected.partition}/{expected.sort}"
        written: Written = await self._call("state.put_if", key, (body,), effect)
        return written

    async def delete_if(self, expected: Row) -> bool:
        effect = partial(self._store.delete_if, expected)
        gone: bool = await self._call("state.delete_if", f"{expected.partition}/{expected.sort}", (), effect)
        return gone

    async def add(self, partition: str, sort: str, amount: int, ceiling: int, expires: float | None = None) -> int:
        effect = partial(self._store.add, partition, sort, amount, ceiling, expires)
        added: int = await self._call("state.add", f"{partition}/{sort}", (amount, ceiling), effect)
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
        effect = partial(
            self._store.query, partition, prefix=prefix, start=start, end=end, limit=limit, descending=descending
        )
        rows: list[Row] = await self._call("state.query", f"{partition}/{prefix or start}", (), effect)
        return rows


class SimQueue(_Port):
    def __init__(self, process: SimProcess, name: str, store: WorkQueue) -> None:
        super().__init__(process)
        self._name = name
        self._store = store

    async def send(self, entries: Sequence[Outgoing]) -> None:
        world = self._process.world
        late = [
            Outgoing(entry.body, entry.group, min(entry.delay + world.between(world.faults.jitter), MAX_DELAY))
            for entry in entries
        ]
        await self._batch("queue.send", self._name, late, self._store.send)

    async def receive(self, limit: int, wait: float) -> list[Received]:
        effect = partial(self._receive, limit, wait)
        entries: list[Received] = await self._call("queue.receive", self._name, (limit, wait), effect)
        return entries

    async def extend(self, handles: Sequence[str]) -> None:
        await self._batch("queue.extend", self._name, handles, self._store.extend)

    async def ack(self, handles: Sequence[str]) -> None:
        await self._batch("queue.ack", self._name, handles, self._store.ack)

    async def release(self, handles: Sequence[str], delay: float = 0.0) -> None:
        await self._batch("queue.release", self._name, handles, partial(self._store.release, delay=delay))

    async def stats(self) -> QueueStats:
        stats: QueueStats = await self._call("queue.stats", self._name, (), self._store.stats)
        return stats

    async def _receive(self, limit: int, wait: float) -> list[Received]:
        world = self._process.world
        entries = await self._store.receive(limit, wait)
        for entry in entries:
            if world.chance(world.faults.duplicated):
                world.aside(self.copy(entry, world.between(world.faults.duplicated_after)))
        return entries

    async def copy(self, entry: Received, delay: float) -> None:
        """Let the entry be delivered a second time, whatever becomes of this receipt."""
        self._process.world.note(None, "duplicate", f"{self._name} in {delay:.3f}")
        await self._store.send([Outgoing(entry.body, entry.group, delay)])


def duplicate(delay: float = 0.0) -> Action:
    """The entries just received are delivered again, though their leases hold. At `landed("queue.receive")`."""

    def copy_all(call: Call) -> None:
        for entry in call.result:
            call.world.aside(call.port.copy(entry, delay))

    return copy_all


def summary(result: Any) -> str:
    """A result in few words, the same in every run."""
    match result:
        case Written():
            return f"{'ok' if result.ok else 'conflict'} v{result.row.version if result.row else 0}"
        case Row():
            return f"v{result.version}"
        case list() | dict() | bytes():
            return f"{type(result).__name__}[{len(result)}]"
        case _:
            return repr(result)

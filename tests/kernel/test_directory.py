from __future__ import annotations

from support.memory_backends import MemoryState

from postfleet.directory import POOLS, Directory, Pool, store
from postfleet.ports import Row


class CountingState(MemoryState):
    def __init__(self) -> None:
        super().__init__()
        self.queries = 0

    async def query(self, partition: str, **options: object) -> list[Row]:  # type: ignore[override]
        self.queries += 1
        return await super().query(partition, **options)  # type: ignore[arg-type]


async def put(state: MemoryState, weight: int) -> None:
    await store(state, POOLS, "default", Pool("default", {"b1": weight}))


def weight(directory: Directory) -> int:
    return directory.pools["default"].weights["b1"]


async def test_an_announced_change_is_seen_at_the_next_refresh() -> None:
    """However seldom everything is read."""
    state = MemoryState()
    directory = Directory(state, whole_every=1000)
    for expected in (1, 2, 3):
        await put(state, expected)
        await directory.refresh()
        assert weight(directory) == expected


async def test_without_a_change_nothing_is_read() -> None:
    """A refresh is one read while nothing was announced."""
    state = CountingState()
    await put(state, 1)
    directory = Directory(state, whole_every=10)
    await directory.refresh()
    queries = state.queries
    for _ in range(9):
        await directory.refresh()
    assert state.queries == queries


async def test_a_change_that_nobody_announced_is_seen_in_the_end() -> None:
    """Every so many refreshes read everything: whoever changed a row may have died before it said so."""
    state = MemoryState()
    await put(state, 1)
    directory = Directory(state, whole_every=3)
    await directory.refresh()
    (row,) = await state.query(POOLS)
    await state.put_if(row, row.body.replace(b"1}", b"2}"))
    seen = []
    for _ in range(3):
        await directory.refresh()
        seen.append(weight(directory))
    assert seen == [1, 1, 2]


async def test_by_default_each_refresh_reads_everything() -> None:
    """On one machine reads are cheap."""
    state = MemoryState()
    await put(state, 1)
    directory = Directory(state)
    await directory.refresh()
    (row,) = await state.query(POOLS)
    await state.put_if(row, row.body.replace(b"1}", b"2}"))
    await directory.refresh()
    assert weight(directory) == 2

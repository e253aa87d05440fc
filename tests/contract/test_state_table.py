from __future__ import annotations

import asyncio
from random import Random

import pytest

from postfleet.ports import MAX_ROW, Backends, Row, TooLarge, Written


async def test_an_absent_row_is_none(backends: Backends, unique: str) -> None:
    """Get of a row that was never written returns None."""
    assert await backends.state.get(unique, "a") is None


async def test_put_if_absent_writes_version_one(backends: Backends, unique: str) -> None:
    """The first write gives version 1 and the row as written."""
    row = Row(unique, "a", 1, b"body", 2_000_000_000.0)
    assert await backends.state.put_if_absent(unique, "a", b"body", 2_000_000_000.0) == Written(True, row)
    assert await backends.state.get(unique, "a") == row


async def test_put_if_absent_shows_what_stands_in_the_way(backends: Backends, unique: str) -> None:
    """A conflict changes nothing and returns the current row."""
    first = await backends.state.put_if_absent(unique, "a", b"theirs")
    assert await backends.state.put_if_absent(unique, "a", b"mine") == Written(False, first.row)
    assert await backends.state.get(unique, "a") == first.row


async def test_one_of_many_racers_writes_the_row(backends: Backends, unique: str) -> None:
    """Of 20 concurrent put_if_absent one wins and all see its row."""
    results = await asyncio.gather(*(backends.state.put_if_absent(unique, "a", b"%d" % n) for n in range(20)))
    assert [result.ok for result in results].count(True) == 1
    assert len({result.row for result in results}) == 1


async def test_put_if_replaces_the_expected_version(backends: Backends, unique: str) -> None:
    """The version grows by 1; body and expiry are the new ones."""
    row = await written(backends, unique, "a", b"old", expires=2_000_000_000.0)
    assert await backends.state.put_if(row, b"new") == Written(True, Row(unique, "a", 2, b"new"))
    assert await backends.state.get(unique, "a") == Row(unique, "a", 2, b"new")


async def test_put_if_on_a_newer_version_returns_it(backends: Backends, unique: str) -> None:
    """A stale writer changes nothing and sees the row that overtook it."""
    row = await written(backends, unique, "a", b"old")
    newer = await backends.state.put_if(row, b"new")
    assert await backends.state.put_if(row, b"stale") == Written(False, newer.row)
    assert await backends.state.get(unique, "a") == newer.row


async def test_put_if_of_an_absent_row_returns_none(backends: Backends, unique: str) -> None:
    """An expected row that is gone is not written again."""
    assert await backends.state.put_if(Row(unique, "a", 1, b"old"), b"new") == Written(False, None)
    assert await backends.state.get(unique, "a") is None


async def test_concurrent_replacements_lose_no_update(backends: Backends, unique: str) -> None:
    """Ten writers that repeat on conflict with the returned row leave version 11."""
    row = await written(backends, unique, "a", b"")

    async def append(letter: bytes) -> None:
        current = row
        while not (result := await backends.state.put_if(current, current.body + letter)).ok:
            assert result.row is not None
            current = result.row

    await asyncio.gather(*(append(letter) for letter in (b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h", b"i", b"j")))
    final = await backends.state.get(unique, "a")
    assert final is not None and final.version == 11 and sorted(final.body) == list(b"abcdefghij")


async def test_delete_if_removes_the_expected_version(backends: Backends, unique: str) -> None:
    """True, and the row is gone."""
    row = await written(backends, unique, "a", b"")
    assert await backends.state.delete_if(row)
    assert await backends.state.get(unique, "a") is None


async def test_delete_if_of_an_absent_row_is_true(backends: Backends, unique: str) -> None:
    """A row that is gone already is gone."""
    assert await backends.state.delete_if(Row(unique, "a", 3, b""))


async def test_delete_if_leaves_a_newer_version(backends: Backends, unique: str) -> None:
    """False, and the row that overtook stays."""
    row = await written(backends, unique, "a", b"old")
    newer = await backends.state.put_if(row, b"new")
    assert not await backends.state.delete_if(row)
    assert await backends.state.get(unique, "a") == newer.row


@pytest.mark.parametrize("extra", [0, 1])
async def test_rows_have_a_size_limit(backends: Backends, unique: str, extra: int) -> None:
    """A body of MAX_ROW is stored; one over it is TooLarge and nothing is stored."""
    row = await written(backends, unique, "most", Random(0).randbytes(MAX_ROW))
    assert (await backends.state.get(unique, "most")) == row
    with pytest.raises(TooLarge):
        await backends.state.put_if_absent(unique, "over", b"x" * (MAX_ROW + 1 + extra))
    with pytest.raises(TooLarge):
        await backends.state.put_if(row, b"x" * (MAX_ROW + 1 + extra))
    assert await backends.state.get(unique, "over") is None
    assert await backends.state.get(unique, "most") == row


async def test_text_survives(backends: Backends, unique: str) -> None:
    """Non-ASCII text in keys and body reads back as it was."""
    body = 'Grüße, 世界 \U0001f4ec\r\n\t"quoted" \\'.encode()
    row = await written(backends, unique, "schlüssel/世", body)
    assert await backends.state.get(unique, "schlüssel/世") == row


async def test_an_empty_sort_key_is_a_key(backends: Backends, unique: str) -> None:
    """A partition of one row need not name it."""
    row = await written(backends, unique, "", b"body")
    assert await backends.state.get(unique, "") == row
    assert await backends.state.query(unique) == [row]


async def test_get_many_returns_those_that_exist(backends: Backends, unique: str) -> None:
    """Absent rows are left out; more keys than one request of any store takes are fine."""
    rows = await asyncio.gather(*(written(backends, unique, f"{n:03}", b"%d" % n) for n in range(0, 250, 2)))
    found = await backends.state.get_many([(unique, f"{n:03}") for n in range(250)])
    assert found == {(unique, row.sort): row for row in rows}
    assert await backends.state.get_many([]) == {}


async def test_query_is_in_sort_order_and_keeps_to_its_partition(backends: Backends, unique: str) -> None:
    """Rows of the one partition, ascending by the sort key's UTF-8 bytes."""
    sorts = ["b", "a", "a/2", "a-1", "ä", "\U0001f4ec", "\uffee", "B"]
    await asyncio.gather(*(written(backends, unique, sort, b"") for sort in sorts))
    await written(backends, unique + "x", "c", b"")
    found = [row.sort for row in await backends.state.query(unique)]
    assert found == sorted(sorts, key=str.encode)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"prefix": "b"}, ["b1", "b2", "b3"]),
        ({"prefix": "z"}, []),
        ({"start": "b2"}, ["b2", "b3", "c1"]),
        ({"end": "b2"}, ["a1", "b1"]),
        ({"start": "b1", "end": "b3"}, ["b1", "b2"]),
        ({"start": "b3", "end": "b1"}, []),
        ({"prefix": "b", "start": "b2"}, ["b2", "b3"]),
        ({"prefix": "b", "start": "a"}, ["b1", "b2", "b3"]),
        ({"prefix": "b", "end": "b3"}, ["b1", "b2"]),
        ({"prefix": "b", "end": "z"}, ["b1", "b2", "b3"]),
        ({"limit": 2}, ["a1", "b1"]),
        ({"limit": 2, "descending": True}, ["c1", "b3"]),
        ({"prefix": "b", "descending": True}, ["b3", "b2", "b1"]),
        ({"start": "b1", "end": "b3", "descending": True, "limit": 1}, ["b2"]),
    ],
)
async def test_query_bounds(backends: Backends, unique: str, arguments: dict[str, object], expected: list[str]) -> None:
    """Prefix, [start, end), limit and direction, alone and together."""
    await asyncio.gather(*(written(backends, unique, sort, b"") for sort in ("b2", "a1", "c1", "b3", "b1")))
    found = await backends.state.query(unique, **arguments)  # type: ignore[arg-type]
    assert [row.sort for row in found] == expected


async def test_query_returns_whole_rows(backends: Backends, unique: str) -> None:
    """What query returns can be handed to put_if."""
    await written(backends, unique, "a", b"old", expires=2_000_000_000.0)
    (row,) = await backends.state.query(unique)
    assert (await backends.state.put_if(row, b"new")).ok


async def test_a_query_of_more_than_a_megabyte_is_complete(backends: Backends, unique: str) -> None:
    """However large the rows, all up to the limit come, in both directions."""
    rows = [await written(backends, unique, str(n), Random(n).randbytes(280 * 1024)) for n in range(5)]
    assert await backends.state.query(unique) == rows
    assert await backends.state.query(unique, descending=True, limit=4) == rows[:0:-1]


async def test_reads_see_the_last_write(backends: Backends, unique: str) -> None:
    """Get and query right after a write show it."""
    row = await written(backends, unique, "a", b"0")
    for n in range(1, 20):
        result = await backends.state.put_if(row, b"%d" % n)
        assert result.row is not None
        row = result.row
        assert await backends.state.get(unique, "a") == row
        assert await backends.state.query(unique) == [row]


async def test_a_counter_adds_up_to_its_ceiling(backends: Backends, unique: str) -> None:
    """Add says how much was added; never past the ceiling, which may differ from call to call."""
    add = backends.state.add
    assert await add(unique, "n", 7, 10) == 7
    assert await add(unique, "n", 7, 10) == 3
    assert await add(unique, "n", 1, 10) == 0
    assert await add(unique, "n", 5, 12) == 2
    assert await add(unique, "n", 5, 4) == 0
    assert await add(unique, "n", 0, 100) == 0
    assert await add(unique, "n", 100, 100) == 88


async def test_a_counter_is_bounded_under_concurrency(backends: Backends, unique: str) -> None:
    """Forty concurrent adds of 3 give out exactly the 100 that there are."""
    added = await asyncio.gather(*(backends.state.add(unique, "n", 3, 100) for _ in range(40)))
    assert sum(added) == 100


async def test_counters_and_rows_do_not_meet(backends: Backends, unique: str) -> None:
    """A counter and a row of the same name are two things; query shows rows only."""
    await backends.state.add(unique, "a", 5, 10, expires=2_000_000_000.0)
    assert await backends.state.get(unique, "a") is None
    row = await written(backends, unique, "a", b"body")
    assert await backends.state.add(unique, "a", 10, 10) == 5
    assert await backends.state.query(unique) == [row]


async def written(backends: Backends, partition: str, sort: str, body: bytes, expires: float | None = None) -> Row:
    result = await backends.state.put_if_absent(partition, sort, body, expires)
    assert result.ok and result.row is not None
    return result.row

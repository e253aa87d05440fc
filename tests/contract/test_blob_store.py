from __future__ import annotations

import asyncio

import pytest

from postfleet.ports import Backends, NotFound


async def test_a_blob_reads_back_byte_for_byte(backends: Backends, unique: str) -> None:
    """What was put is what get returns, for any bytes."""
    data = bytes(range(256)) * 40
    await backends.blobs.put(f"mail/{unique}", data)
    assert await backends.blobs.get(f"mail/{unique}") == data


async def test_an_empty_blob_reads_back(backends: Backends, unique: str) -> None:
    """A blob of no bytes exists."""
    await backends.blobs.put(f"mail/{unique}", b"")
    assert await backends.blobs.get(f"mail/{unique}") == b""


@pytest.mark.parametrize("key", ["mail/2026/11/a", "mail/2026/11", "mail/a.b_c=d-e", "mail/a+b", "mail/..."])
async def test_keys_do_not_get_in_each_others_way(backends: Backends, unique: str, key: str) -> None:
    """Any ASCII key works, one that begins another included."""
    key = f"{unique}/{key}"
    await backends.blobs.put(key + "/below", b"below")
    await backends.blobs.put(key, b"at")
    assert [await backends.blobs.get(key), await backends.blobs.get(key + "/below")] == [b"at", b"below"]
    assert await backends.blobs.list(key) == [key, key + "/below"]


@pytest.mark.parametrize(
    ("offset", "length", "expected"),
    [(0, 4, b"0123"), (3, 4, b"3456"), (6, None, b"6789"), (8, 100, b"89"), (9, 1, b"9")],
)
async def test_a_range_read_returns_that_part(
    backends: Backends, unique: str, offset: int, length: int | None, expected: bytes
) -> None:
    """`length` bytes from `offset`, to the end when None, and no further than the end."""
    await backends.blobs.put(unique, b"0123456789")
    assert await backends.blobs.get(unique, offset, length) == expected


async def test_a_large_range_read_returns_all_of_it(backends: Backends, unique: str) -> None:
    """A range of megabytes is complete."""
    data = b"0123456789abcdef" * 200_000
    await backends.blobs.put(unique, data)
    assert await backends.blobs.get(unique, 5, 3_000_000) == data[5:3_000_005]


async def test_an_absent_blob_is_not_found(backends: Backends, unique: str) -> None:
    """Get of an absent key raises NotFound, with and without a range."""
    with pytest.raises(NotFound):
        await backends.blobs.get(unique)
    with pytest.raises(NotFound):
        await backends.blobs.get(unique, 0, 10)


async def test_put_replaces(backends: Backends, unique: str) -> None:
    """A second put of a key is what get returns from then on."""
    await backends.blobs.put(unique, b"first")
    assert await backends.blobs.get(unique, 0, 5) == b"first"
    await backends.blobs.put(unique, b"other")
    assert await backends.blobs.get(unique, 0, 5) == b"other"


async def test_put_if_absent_creates(backends: Backends, unique: str) -> None:
    """An absent blob is stored, and the call says that it did it."""
    assert await backends.blobs.put_if_absent(unique, b"mine")
    assert await backends.blobs.get(unique) == b"mine"


async def test_put_if_absent_leaves_what_is_there(backends: Backends, unique: str) -> None:
    """False, and the stored blob stays as it is."""
    await backends.blobs.put(unique, b"theirs")
    assert not await backends.blobs.put_if_absent(unique, b"mine")
    assert await backends.blobs.get(unique) == b"theirs"


async def test_one_of_many_racers_creates_the_blob(backends: Backends, unique: str) -> None:
    """Of 20 concurrent put_if_absent exactly one is told that it won, and its bytes are stored."""
    won = await asyncio.gather(*(backends.blobs.put_if_absent(unique, b"%d" % n) for n in range(20)))
    assert won.count(True) == 1
    assert await backends.blobs.get(unique) == b"%d" % won.index(True)


async def test_list_is_in_key_order(backends: Backends, unique: str) -> None:
    """Keys with the prefix, ascending as strings, whatever their parts."""
    keys = [f"{unique}/{tail}" for tail in ("a/b", "a-b", "a.b", "a0", "a", "a/b/c", "b", "B", "a/a")]
    await asyncio.gather(*(backends.blobs.put(key, b"") for key in keys))
    assert await backends.blobs.list(f"{unique}/") == sorted(keys)


async def test_list_keeps_to_the_prefix(backends: Backends, unique: str) -> None:
    """A prefix need not end at a `/`."""
    await asyncio.gather(*(backends.blobs.put(f"{unique}/{tail}", b"") for tail in ("ab/1", "abc", "b", "a")))
    assert await backends.blobs.list(f"{unique}/ab") == [f"{unique}/ab/1", f"{unique}/abc"]


async def test_list_pages_by_after(backends: Backends, unique: str) -> None:
    """`after` continues behind the last key of the page before; every key comes once."""
    keys = [f"{unique}/{n // 3}/{n}" for n in range(10)]
    await asyncio.gather(*(backends.blobs.put(key, b"") for key in keys))
    seen: list[str] = []
    while page := await backends.blobs.list(f"{unique}/", after=seen[-1] if seen else "", limit=3):
        assert len(page) <= 3
        seen += page
    assert seen == keys


async def test_list_of_nothing_is_empty(backends: Backends, unique: str) -> None:
    """No key with the prefix: an empty list."""
    assert await backends.blobs.list(f"{unique}/none/") == []


async def test_delete_removes_and_does_not_mind_absence(backends: Backends, unique: str) -> None:
    """Deleted blobs are gone; absent keys are no error."""
    await backends.blobs.put(f"{unique}/1", b"one")
    await backends.blobs.put(f"{unique}/2", b"two")
    assert await backends.blobs.get(f"{unique}/1", 0, 3) == b"one"
    await backends.blobs.delete([f"{unique}/1", f"{unique}/absent"])
    with pytest.raises(NotFound):
        await backends.blobs.get(f"{unique}/1", 0, 3)
    assert await backends.blobs.list(f"{unique}/") == [f"{unique}/2"]


async def test_what_was_appended_reads_back_from_its_place(backends: Backends, unique: str) -> None:
    """Appends say in which blob and where their bytes are; one does not disturb another."""
    parts = [b"first", b"", bytes(range(256)) * 100, b"last"]
    places = [await backends.blobs.append(f"mail/{unique}/{n}", part) for n, part in enumerate(parts)]
    found = [
        await backends.blobs.get(key, offset, len(part)) for (key, offset), part in zip(places, parts, strict=True)
    ]
    assert found == parts
    assert all(key.startswith(f"mail/{unique}/") for key, _ in places)


async def test_appends_at_once_all_read_back(backends: Backends, unique: str) -> None:
    """Concurrent appends share a blob or do not, and keep their bytes."""
    parts = [b"%d" % n * n for n in range(20)]
    places = await asyncio.gather(*(backends.blobs.append(f"mail/{unique}/{n}", part) for n, part in enumerate(parts)))
    found = [
        await backends.blobs.get(key, offset, len(part)) for (key, offset), part in zip(places, parts, strict=True)
    ]
    assert found == parts


async def test_a_large_append_reads_back(backends: Backends, unique: str) -> None:
    """Megabytes are appended like bytes."""
    data = b"0123456789abcdef" * 400_000
    key, offset = await backends.blobs.append(f"mail/{unique}/large", data)
    assert await backends.blobs.get(key, offset, len(data)) == data

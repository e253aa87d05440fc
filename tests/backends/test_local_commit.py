from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from postfleet.backends.local_commit import Committer, connect
from postfleet.ports import StoreFull, Unavailable


class Store:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.commits = 0
        db = connect(path)
        db.execute("CREATE TABLE t (n INTEGER UNIQUE)")
        db.close()
        self.committer = Committer(path, self._committed)

    def _committed(self) -> None:
        self.commits += 1

    def insert(self, n: int) -> asyncio.Future[None]:
        def operation(db: sqlite3.Connection) -> None:
            db.execute("INSERT INTO t VALUES (?)", (n,))

        return self.committer.submit(operation)

    def raise_in_writer(self, error: Exception) -> asyncio.Future[None]:
        def operation(db: sqlite3.Connection) -> None:
            raise error

        return self.committer.submit(operation)

    def stored(self) -> list[int]:
        db = connect(self.path)
        rows = [n for (n,) in db.execute("SELECT n FROM t ORDER BY n")]
        db.close()
        return rows


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    store = Store(tmp_path / "t.db")
    yield store
    await store.committer.close()


async def test_what_waits_is_committed_together(store: Store) -> None:
    """A thousand operations submitted at once take a handful of commits."""
    await asyncio.gather(*(store.insert(n) for n in range(1000)))
    assert store.stored() == list(range(1000))
    assert store.commits < 50


async def test_a_spoilt_operation_fails_alone(store: Store) -> None:
    """What cannot be executed gets its own error; its neighbours are stored."""
    results = await asyncio.gather(store.insert(1), store.insert(1), store.insert(2), return_exceptions=True)
    assert isinstance(results[1], sqlite3.IntegrityError)
    assert store.stored() == [1, 2]


async def test_a_full_disk_refuses_all_that_waited(store: Store) -> None:
    """SQLITE_FULL means StoreFull for everyone of the batch, and nothing of it is stored."""

    def shrink(db: sqlite3.Connection) -> None:
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages}")

    def fill(db: sqlite3.Connection) -> None:
        db.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(10_000)])

    begun, go = threading.Event(), threading.Event()

    def hold_up(db: sqlite3.Connection) -> None:
        begun.set()
        go.wait()

    await store.committer.submit(shrink)
    held = store.committer.submit(hold_up)
    await asyncio.to_thread(begun.wait)
    together = asyncio.gather(store.insert(-1), store.committer.submit(fill), return_exceptions=True)
    go.set()
    await held
    results = await together
    assert [type(result) for result in results] == [StoreFull, StoreFull]
    assert store.stored() == []


async def test_other_errors_of_the_store_are_unavailable(store: Store) -> None:
    """A store that fails says so, and works again with a new connection."""
    with pytest.raises(Unavailable):
        await store.raise_in_writer(sqlite3.OperationalError("disk I/O error"))
    await store.insert(1)
    assert store.stored() == [1]


async def test_close_commits_what_was_submitted(store: Store) -> None:
    """Closing waits for the writer; afterwards nothing is taken."""
    last = store.insert(1)
    await store.committer.close()
    await last
    assert store.stored() == [1]
    with pytest.raises(Unavailable):
        store.insert(2)

"""One SQLite file shared by the processes of a machine, with group commit.

Each process has one writer thread per file. Whatever operations wait when the
thread is free go into one transaction: one fsync for all of them.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from msgspec import Struct

from postfleet.backends.local_locks import FileLock
from postfleet.ports import StorageError, StoreFull, Unavailable

T = TypeVar("T")
Operation = Callable[[sqlite3.Connection], T]

_BATCH = 512
_BUSY_SECONDS = 30.0
_CHECKPOINT_PAGES = 4000
_REFUSED_STATEMENT = (sqlite3.DataError, sqlite3.IntegrityError, sqlite3.InterfaceError, sqlite3.ProgrammingError)


def connect(path: Path) -> sqlite3.Connection:
    """A connection in autocommit mode whose commits are durable when they return."""
    db = sqlite3.connect(path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = FULL")
    db.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
    db.execute("PRAGMA journal_size_limit = 67108864")
    db.execute("PRAGMA cache_size = -16000")
    return db


def storage_error(error: sqlite3.Error, path: Path) -> StorageError:
    if getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL:
        return StoreFull(f"{path}: no room left on its file system: free some space")
    return Unavailable(f"{path}: {error}")


def write_lock(database: Path) -> FileLock:
    """What every writer of this file holds around its transaction."""
    return FileLock(database.with_suffix(".lock"))


def create(path: Path, schema: str) -> tuple[sqlite3.Connection, FileLock]:
    """Open the file and make what it lacks; both belong to the caller."""
    lock = write_lock(path)
    with lock.held():
        db = connect(path)
        db.executescript(schema)
    return db, lock


@contextmanager
def transaction(db: sqlite3.Connection, lock: FileLock) -> Iterator[None]:
    with lock.held():
        db.execute("BEGIN IMMEDIATE")
        try:
            yield
            db.execute("COMMIT")
        except BaseException:
            if db.in_transaction:
                db.execute("ROLLBACK")
            raise


class _Waiting(Struct, eq=False):
    operation: Operation[Any]
    future: asyncio.Future[Any]
    result: Any = None
    error: Exception | None = None


class _Spoilt(Exception):
    """One operation of a batch cannot be executed at all."""

    def __init__(self, culprit: _Waiting) -> None:
        self.culprit = culprit


class Committer:
    """Executes operations in the order of submission and resolves their futures once they are durable.

    `committed` runs in the writer thread after each commit.
    """

    def __init__(self, path: Path, committed: Callable[[], None]) -> None:
        self._path = path
        self._committed = committed
        self._loop = asyncio.get_running_loop()
        self._waiting: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._lock = write_lock(path)
        self._db: sqlite3.Connection | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name=f"commit-{path.stem}", daemon=True)
        self._thread.start()

    def submit(self, operation: Operation[T]) -> asyncio.Future[T]:
        """Raises `Unavailable` or, with nothing stored, `StoreFull`. Cancelling the future cancels nothing."""
        if self._closed:
            raise Unavailable(f"{self._path}: closed")
        future: asyncio.Future[T] = self._loop.create_future()
        self._waiting.put(_Waiting(operation, future))
        return future

    async def close(self) -> None:
        """Commits what was submitted before."""
        if not self._closed:
            self._closed = True
            self._waiting.put(None)
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        while batch := self._next_batch():
            self._commit(batch)
            self._loop.call_soon_threadsafe(_resolve, batch)
        if self._db is not None:
            self._db.close()
        self._lock.close()

    def _next_batch(self) -> list[_Waiting]:
        """All that waits; empty at the end."""
        first = self._waiting.get()
        batch = [] if first is None else [first]
        while batch and len(batch) < _BATCH:
            try:
                more = self._waiting.get_nowait()
            except queue.Empty:
                break
            if more is None:
                self._waiting.put(None)
                break
            batch.append(more)
        return batch

    def _commit(self, batch: list[_Waiting]) -> None:
        while batch:
            try:
                self._execute(batch)
                self._committed()
                return
            except _Spoilt as spoilt:
                batch = [one for one in batch if one is not spoilt.culprit]
            except sqlite3.Error as error:
                return self._fail(batch, storage_error(error, self._path))
            except Exception as error:
                return self._fail(batch, Unavailable(f"{self._path}: {error}"))

    def _execute(self, batch: list[_Waiting]) -> None:
        if self._db is None:
            self._db = connect(self._path)
        with transaction(self._db, self._lock):
            for one in batch:
                try:
                    one.result = one.operation(self._db)
                except Exception as error:
                    if isinstance(error, sqlite3.Error) and not isinstance(error, _REFUSED_STATEMENT):
                        raise
                    one.error = error
                    raise _Spoilt(one) from error

    def _fail(self, batch: list[_Waiting], error: StorageError) -> None:
        for one in batch:
            one.error = error
        # After a failed fsync a file descriptor may report success for pages that are gone.
        if self._db is not None and not isinstance(error, StoreFull):
            self._db.close()
            self._db = None


def _resolve(batch: list[_Waiting]) -> None:
    for one in batch:
        if one.future.done():
            continue
        if one.error is None:
            one.future.set_result(one.result)
        else:
            one.future.set_exception(one.error)

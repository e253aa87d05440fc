"""Reading all databases of a directory as they stood at one instant."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from postfleet.backends.local import QUEUES, STATE
from postfleet.backends.local_commit import connect, write_lock


@contextmanager
def snapshots(directory: Path) -> Iterator[Mapping[str, sqlite3.Connection]]:
    """Readers by file name, all of one instant; writers wait only until the snapshots stand.

    Who moves something between the databases writes it in the new place before removing it from the old, and at that
    instant no writer is inside a transaction: whatever is stored at all stands in at least one of the snapshots.
    """
    with ExitStack() as closing:
        readers = {name: closing.enter_context(_reader(directory / name)) for name in (STATE, QUEUES)}
        with ExitStack() as writers:
            for name in readers:
                writers.enter_context(_no_writer(directory / name))
            for reader in readers.values():
                reader.execute("BEGIN")
                reader.execute("SELECT 1 FROM sqlite_schema").fetchone()
        yield readers


@contextmanager
def _reader(path: Path) -> Iterator[sqlite3.Connection]:
    db = connect(path)
    try:
        yield db
    finally:
        db.close()


@contextmanager
def _no_writer(path: Path) -> Iterator[None]:
    lock = write_lock(path)
    try:
        with lock.held():
            yield
    finally:
        lock.close()

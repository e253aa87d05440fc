"""Deletes the mail blobs that nothing refers to any more.

A reference is the blob's key in the body of a queue entry or a state row, all
of them read as they stood at one instant.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

from postfleet.backends.local import QUEUES, STATE
from postfleet.backends.local_blobs import DIRECTORY_KNOWN, MAIL, blob_keys, blob_path, delete_blobs
from postfleet.backends.local_locks import exclusive
from postfleet.backends.local_snapshot import snapshots
from postfleet.clock import Clock

AGE = 600.0
"""For how long a blob must have been without references, seconds: longer than from a blob to its first entry."""
_KEY = re.compile(rb"mail/[A-Za-z0-9._=~/-]+")
_BODIES = {STATE: "SELECT body FROM row", QUEUES: "SELECT body FROM body"}
_TOGETHER = 200


class MailRetention:
    """Remembers which blobs were without references, and since when on the clock that never steps."""

    def __init__(self, directory: Path, clock: Clock, age: float = AGE) -> None:
        self._directory = directory
        self._root = directory / "blobs"
        self._clock = clock
        self._age = age
        self._idle: dict[str, tuple[int, float]] = {}

    async def sweep(self) -> int:
        """Delete what has had no reference for long enough; how many. Call it every minute or so."""
        return await asyncio.to_thread(self._sweep)

    def _sweep(self) -> int:
        now = self._clock.mono()
        written = {key: _written(self._root, key) for key in blob_keys(str(self._root), prefix=MAIL) if _plain(key)}
        with snapshots(self._directory) as readers:
            bodies = (body for name, reader in readers.items() for (body,) in reader.execute(_BODIES[name]))
            unreferenced = written.keys() - referenced(bodies)
        self._idle = {key: self._idle_since(key, written[key], now) for key in unreferenced}
        old = sorted(key for key, (_, since) in self._idle.items() if now - since >= self._age)
        deleted = sum(self._delete(batch) for batch in _batches(old))
        if self._age > DIRECTORY_KNOWN:
            _remove_empty_directories(self._root / "mail+", self._clock.now() - self._age)
        return deleted

    def _idle_since(self, key: str, written: int, now: float) -> tuple[int, float]:
        known = self._idle.get(key)
        return known if known is not None and known[0] == written else (written, now)

    def _delete(self, keys: list[str]) -> int:
        """Those that were not written or touched since the snapshot."""
        with exclusive(self._directory / "sweep.lock"):
            unwanted = [key for key in keys if _written(self._root, key) == self._idle[key][0]]
            delete_blobs(self._root, unwanted)
        for key in keys:
            del self._idle[key]
        return len(unwanted)


def referenced(bodies: Iterable[bytes]) -> set[str]:
    return {key.decode() for body in bodies for key in _KEY.findall(body)}


def _plain(key: str) -> bool:
    """Whether a reference to it would be recognised for certain."""
    return _KEY.fullmatch(key.encode()) is not None


def _written(root: Path, key: str) -> int:
    try:
        return os.stat(blob_path(root, key)).st_mtime_ns
    except FileNotFoundError:
        return 0


def _batches(keys: list[str]) -> Iterator[list[str]]:
    rest = iter(keys)
    while batch := list(islice(rest, _TOGETHER)):
        yield batch


def _remove_empty_directories(directory: Path, unchanged_since: float) -> None:
    """Old ones only: who puts a blob takes a directory to stay for a while."""
    for path, _, _ in os.walk(directory, topdown=False):
        with suppress(OSError):
            if os.stat(path).st_mtime < unchanged_since:
                os.rmdir(path)

"""Segments: files that one process appends to, so that a commit creates no file and syncs no directory.

A segment is a blob named after the first key that was appended to it, and takes what comes for keys of the same
directory. Room is laid out in steps; what lies after the last append is never referred to.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from postfleet.backends.local_locks import FileLock
from postfleet.ports import StoreFull, Unavailable

STEP = 4 * 1024 * 1024
"""Bytes laid out at a time; what is larger deserves a file of its own."""
MAX_SEGMENT = 64 * 1024 * 1024
_TRIES = 5


class SegmentWriter:
    """`ensure_directory` makes a directory durable; `path_of` says where a key's file is. For several threads."""

    def __init__(
        self, sweep_lock: Path, path_of: Callable[[str], str], ensure_directory: Callable[[str], None]
    ) -> None:
        self._sweep_lock = FileLock(sweep_lock)
        self._path_of = path_of
        self._ensure_directory = ensure_directory
        self._turn = threading.Lock()
        self._segment: _Segment | None = None

    def append(self, key: str, data: bytes) -> tuple[str, int]:
        """(key of the segment, where in it the data begins), once that is durable."""
        with self._turn:
            for _ in range(_TRIES):
                segment = self._segment_for(key, len(data))
                with self._sweep_lock.shared():
                    if segment.exists():
                        return segment.key, self._written(segment, data)
                self._drop()
        raise Unavailable(f"{self._path_of(key)}: vanishes again and again")

    def close(self) -> None:
        self._drop()
        self._sweep_lock.close()

    def _segment_for(self, key: str, size: int) -> _Segment:
        segment = self._segment
        if segment is None or _directory(segment.key) != _directory(key) or segment.end + size > MAX_SEGMENT:
            self._drop()
            path = self._path_of(key)
            self._ensure_directory(os.path.dirname(path))
            segment = self._segment = _Segment(key, path)
        return segment

    def _written(self, segment: _Segment, data: bytes) -> int:
        """After a failed sync a file may report success for pages that are gone, so it is not used again."""
        try:
            return segment.append(data)
        except OSError as error:
            self._drop()
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(f"{segment.path}: no room left on its file system: free some space") from error
            raise

    def _drop(self) -> None:
        if self._segment is not None:
            self._segment.close()
            self._segment = None


class _Segment:
    def __init__(self, key: str, path: str) -> None:
        self.key = key
        self.path = path
        self.end = 0
        self._laid_out = 0
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._sync_name()

    def _sync_name(self) -> None:
        directory = os.open(os.path.dirname(self.path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def exists(self) -> bool:
        return os.fstat(self._fd).st_nlink > 0

    def append(self, data: bytes) -> int:
        offset = self.end
        self._lay_out(offset + len(data))
        written = 0
        while written < len(data):
            written += os.pwrite(self._fd, memoryview(data)[written:], offset + written)
        os.fdatasync(self._fd)
        self.end += len(data)
        return offset

    def _lay_out(self, size: int) -> None:
        """A step ahead, or, where there is no room for that, as much as is needed."""
        needed = size - self._laid_out
        if needed <= 0:
            return
        step = max(STEP, needed)
        try:
            os.posix_fallocate(self._fd, self._laid_out, step)
        except OSError:
            step = needed
            os.posix_fallocate(self._fd, self._laid_out, step)
        self._laid_out += step

    def close(self) -> None:
        """Gives back the room that was not used."""
        with suppress(OSError):
            os.ftruncate(self._fd, self.end)
        os.close(self._fd)


def _directory(key: str) -> str:
    return key.rpartition("/")[0]

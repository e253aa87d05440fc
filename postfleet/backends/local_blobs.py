"""Blobs as files: `blobs/mail+/20261122+/abc` holds the blob `mail/20261122/abc`.

A blob that was put appears under its name complete and durable, or not at all; `local_segments` has those that are
appended to. Directories carry a `+`, so that one key may be the beginning of another.
"""

from __future__ import annotations

import asyncio
import errno
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote, unquote

from postfleet.backends.local_locks import shared
from postfleet.backends.local_segments import STEP, SegmentWriter
from postfleet.ports import NotFound, StoreFull, Unavailable

T = TypeVar("T")

MAIL = "mail/"
"""Retention class of the contents and recipients of accepted mail."""

_THREADS = 8
_OPEN_FILES = 256
_IN_LOOP = 256 * 1024
"""Reads from the page cache, and appends, of up to this many bytes are done in the loop: a thread would cost more."""
_QUICK = 0.005
_SLOW_RUN = 100
"""After an append that took longer than `_QUICK` seconds, so many are left to a thread."""
_SPACE_EVERY = 1.0
DIRECTORY_KNOWN = 60.0
"""For how long a directory that was made durable is taken to be there still, seconds."""
_PLACE_TRIES = 5
_ABANDONED = 3600.0


def blob_path(root: Path, key: str) -> str:
    *directories, name = (quote(part, safe="=,@:") for part in key.split("/"))
    return os.path.join(root, *(part + "+" for part in directories), name if name.strip(".") else "%" + name)


def blob_keys(directory: str, base: str = "", prefix: str = "", after: str = "") -> Iterator[str]:
    """Keys below a directory that holds those beginning with `base`, ascending."""
    for part in _parts(directory):
        key = base + part
        if part.endswith("/"):
            if _overlap(key, prefix) and (key > after or after.startswith(key)):
                yield from blob_keys(os.path.join(directory, quote(part[:-1], safe="=,@:") + "+"), key, prefix, after)
        elif key.startswith(prefix) and key > after:
            yield key


def _parts(directory: str) -> list[str]:
    """Key parts of the files and, with a `/`, of the directories in it, in the order of the keys."""
    with suppress(FileNotFoundError):
        return sorted(_part(name) for name in os.listdir(directory))
    return []


def _part(name: str) -> str:
    if name.endswith("+"):
        return unquote(name[:-1]) + "/"
    return unquote(name) if name.strip("%.") else name[1:]


def _overlap(key: str, prefix: str) -> bool:
    return key.startswith(prefix) or prefix.startswith(key)


class Space:
    """Refuses new mail while less than `reserve` bytes are free: the rest is for finishing what was accepted."""

    def __init__(self, directory: Path, reserve: int) -> None:
        self._directory = directory
        self._reserve = reserve
        self._checked_at = float("-inf")
        self._free = 0

    def check(self, key: str) -> None:
        if not key.startswith(MAIL):
            return
        if time.monotonic() - self._checked_at > _SPACE_EVERY:
            stat = os.statvfs(self._directory)
            self._free = stat.f_bavail * stat.f_frsize
            self._checked_at = time.monotonic()
        if self._free < self._reserve:
            raise StoreFull(f"{self._directory}: {self._free} bytes free, {self._reserve} kept back: free some space")


class OpenFiles:
    """The files read last, kept open."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._fds: OrderedDict[str, int] = OrderedDict()

    def fd(self, key: str) -> int:
        """Raises `FileNotFoundError`."""
        fd = self._fds.get(key)
        if fd is not None and os.fstat(fd).st_nlink:
            self._fds.move_to_end(key)
            return fd
        if fd is not None:
            os.close(self._fds.pop(key))
        fd = self._fds[key] = os.open(blob_path(self._root, key), os.O_RDONLY | os.O_CLOEXEC)
        if len(self._fds) > _OPEN_FILES:
            os.close(self._fds.popitem(last=False)[1])
        return fd

    def close(self) -> None:
        while self._fds:
            os.close(self._fds.popitem()[1])


class LocalBlobStore:
    def __init__(self, directory: Path, reserve: int) -> None:
        self._root = directory / "blobs"
        self._writer = BlobWriter(directory)
        self._segments = SegmentWriter(
            directory / "sweep.lock", lambda key: blob_path(self._root, key), self._writer.ensure_directory
        )
        self._slow_appends = 0
        self._space = Space(directory, reserve)
        self._open = OpenFiles(self._root)
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="blob")

    async def put(self, key: str, data: bytes) -> None:
        self._space.check(key)
        await self._in_thread(key, lambda: self._writer.put(key, data))

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        self._space.check(key)
        return await self._in_thread(key, lambda: self._writer.put_if_absent(key, data))

    async def append(self, key: str, data: bytes) -> tuple[str, int]:
        if len(data) > STEP:
            await self.put(key, data)
            return key, 0
        self._space.check(key)
        if len(data) > _IN_LOOP or self._slow_appends:
            return await self._in_thread(key, lambda: self._timed_append(key, data))
        with _troubles(key):
            return self._timed_append(key, data)

    def _timed_append(self, key: str, data: bytes) -> tuple[str, int]:
        """Where a sync is quick, two hand-overs between threads would take ten times as long as the append itself."""
        start = time.monotonic()
        try:
            return self._segments.append(key, data)
        finally:
            slow = time.monotonic() - start > _QUICK
            self._slow_appends = _SLOW_RUN if slow else max(0, self._slow_appends - 1)

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        cached = self._cached(key, offset, length)
        return await self._in_thread(key, lambda: self._read(key, offset, length)) if cached is None else cached

    async def list(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        def page() -> list[str]:
            keys = blob_keys(str(self._root), prefix=prefix, after=after)
            return [key for key, _ in zip(keys, range(limit), strict=False)]

        return await self._in_thread(prefix, page)

    async def delete(self, keys: Sequence[str]) -> None:
        await self._in_thread(", ".join(keys[:1]), lambda: delete_blobs(self._root, keys))

    async def close(self) -> None:
        await asyncio.to_thread(self._threads.shutdown)
        self._segments.close()
        self._open.close()

    async def _in_thread(self, key: str, work: Callable[[], T]) -> T:
        with _troubles(key):
            return await asyncio.get_running_loop().run_in_executor(self._threads, work)

    def _cached(self, key: str, offset: int, length: int | None) -> bytes | None:
        """What the page cache has of it, if that is all."""
        if length is None or length > _IN_LOOP:
            return None
        try:
            buffer = bytearray(length)
            read = os.preadv(self._open.fd(key), [buffer], offset, os.RWF_NOWAIT)
        except OSError:
            return None
        return bytes(buffer) if read == length else None

    def _read(self, key: str, offset: int, length: int | None) -> bytes:
        with open(blob_path(self._root, key), "rb", buffering=0) as file:
            wanted = max(0, os.fstat(file.fileno()).st_size - offset)
            file.seek(offset)
            return _read_all(file.fileno(), wanted if length is None else min(wanted, length))


@contextmanager
def _troubles(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, NotADirectoryError):
        raise NotFound(f"blob {key}: not there") from None
    except OSError as error:
        raise Unavailable(f"blob {key}: {error}") from error


def _read_all(fd: int, length: int) -> bytes:
    chunks = []
    while length and (chunk := os.read(fd, length)):
        chunks.append(chunk)
        length -= len(chunk)
    return b"".join(chunks)


class BlobWriter:
    """Puts blobs in place, in whatever thread."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / "blobs"
        self._incoming = directory / "incoming"
        self._sweep_lock = directory / "sweep.lock"
        self._durable: dict[str, float] = {}
        _remove_abandoned(self._incoming)

    def put(self, key: str, data: bytes) -> None:
        temporary = self._written(data)
        try:
            self._place(key, lambda path: os.replace(temporary, path))
        finally:
            _unlink(temporary)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        temporary = self._written(data)
        try:
            return self._place(key, lambda path: _link_or_touch(temporary, path))
        finally:
            _unlink(temporary)

    def _written(self, data: bytes) -> str:
        """A durable file without a place yet. What fails here has stored nothing."""
        path = os.path.join(self._incoming, os.urandom(12).hex())
        try:
            _write_durably(path, data)
        except OSError as error:
            _unlink(path)
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StoreFull(f"{path}: no room left on its file system: free some space") from error
            raise
        return path

    def _place(self, key: str, place: Callable[[str], T]) -> T:
        """Under the lock that keeps retention from removing, unseen, what is about to be referred to."""
        path = blob_path(self._root, key)
        directory = os.path.dirname(path)
        for _ in range(_PLACE_TRIES):
            self.ensure_directory(directory)
            try:
                with shared(self._sweep_lock):
                    placed = place(path)
                    sync_directory(directory)
                return placed
            except FileNotFoundError:
                self._durable.pop(directory, None)
        raise Unavailable(f"{directory}: vanishes again and again")

    def ensure_directory(self, directory: str) -> None:
        """There and durable: another process may have made it without having synced it yet."""
        now = time.monotonic()
        if directory == str(self._root) or now - self._durable.get(directory, float("-inf")) < DIRECTORY_KNOWN:
            return
        parent = os.path.dirname(directory)
        self.ensure_directory(parent)
        with suppress(FileExistsError):
            os.mkdir(directory, 0o700)
        sync_directory(parent)
        self._durable[directory] = now


def delete_blobs(root: Path, keys: Sequence[str]) -> None:
    directories = set()
    for key in keys:
        path = blob_path(root, key)
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(path)
            directories.add(os.path.dirname(path))
    for directory in directories:
        with suppress(FileNotFoundError):
            sync_directory(directory)


def _link_or_touch(temporary: str, path: str) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        os.utime(path)
        return False
    return True


def _write_durably(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        os.fdatasync(fd)
    finally:
        os.close(fd)


def sync_directory(directory: str | Path) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _unlink(path: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)


def _remove_abandoned(incoming: Path) -> None:
    """What a killed process left half written."""
    for file in incoming.iterdir():
        with suppress(FileNotFoundError):
            if time.time() - file.stat().st_mtime > _ABANDONED:
                file.unlink()

"""Bells: how a process tells the others of the machine that a queue has something new.

A bell is an empty-looking file; to ring it is to write to it, and who waits
watches the directory of bells by inotify(7). Idle waiting costs nothing.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import struct
from pathlib import Path

_IN_MODIFY = 0x2
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


def _watch(directory: Path) -> int:
    fd = int(_libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify_init1 failed: raise the sysctl fs.inotify.max_user_instances")
    if _libc.inotify_add_watch(fd, os.fsencode(directory), _IN_MODIFY) < 0:
        os.close(fd)
        raise OSError(ctypes.get_errno(), f"cannot watch {directory}: raise the sysctl fs.inotify.max_user_watches")
    return fd


def _names(events: bytes) -> set[str]:
    names = set()
    at = 0
    while at < len(events):
        _, _, _, length = _EVENT.unpack_from(events, at)
        at += _EVENT.size
        names.add(events[at : at + length].rstrip(b"\0").decode())
        at += length
    return names


class Bells:
    """The bells of one directory, heard in the running loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._loop = asyncio.get_running_loop()
        self._fd = _watch(directory)
        self._ropes: dict[str, int] = {}
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._loop.add_reader(self._fd, self._heard)

    def ring(self, name: str) -> None:
        """From any one thread."""
        rope = self._ropes.get(name)
        if rope is None:
            rope = os.open(self._directory / name, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
            self._ropes[name] = rope
        os.pwrite(rope, b"\n", 0)

    def listen(self, name: str) -> asyncio.Event:
        """An event that is set whenever the bell rings, until `forget`."""
        event = asyncio.Event()
        self._waiting.setdefault(name, set()).add(event)
        return event

    def forget(self, name: str, event: asyncio.Event) -> None:
        self._waiting[name].discard(event)

    def close(self) -> None:
        self._loop.remove_reader(self._fd)
        for fd in (self._fd, *self._ropes.values()):
            os.close(fd)

    def _heard(self) -> None:
        for name in _names(os.read(self._fd, 65536)):
            for event in self._waiting.get(name, ()):
                event.set()

"""Processes that were stopped (SIGSTOP, a debugger) while they held a lock of the store: all others wait for them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

PROC = Path("/proc")
_STOPPED = frozenset("Tt")
"""States of proc(5): stopped, and stopped by a tracer."""


def blockers(pids: Iterable[int]) -> set[int]:
    """Those of `pids` that are stopped and hold a lock by flock(2)."""
    holders = lock_holders((PROC / "locks").read_text())
    return {pid for pid in pids if pid in holders and is_stopped(pid)}


def is_stopped(pid: int) -> bool:
    try:
        stat = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] in _STOPPED


def lock_holders(locks: str) -> set[int]:
    """From the text of /proc/locks; who only waits (`->`) holds nothing."""
    lines = (line.split() for line in locks.splitlines())
    return {int(fields[4]) for fields in lines if fields[1:2] == ["FLOCK"]}

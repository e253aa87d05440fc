"""The sandbox's inbox: the last messages that its mailbox providers took, for people to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct


class Letter(Struct, frozen=True):
    """One message as it came. `id` is short, for people to type."""

    id: str
    time: float
    peer: str
    """IP address that it came from."""
    host: str
    """IP address of the MX."""
    sender: str
    recipients: tuple[str, ...]
    data: bytes


def read_inbox(path: Path) -> list[Letter]:
    """Oldest first; empty where there is no inbox yet."""
    if not path.exists():
        return []
    return msgspec.msgpack.decode(path.read_bytes(), type=list[Letter])


def write_inbox(path: Path, letters: Sequence[Letter]) -> None:
    """Replaces the inbox as a whole, so that readers never see half of it."""
    temporary = path.with_name(path.name + ".new")
    temporary.write_bytes(msgspec.msgpack.encode(letters))
    temporary.replace(path)

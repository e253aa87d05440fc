"""All storage of a deployment on one machine, in one directory that its processes share.

state.db            rows and counters
queues.db           all queues
bells/              see `local_bell`
blobs/ incoming/    see `local_blobs`
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from types import TracebackType

from postfleet.backends.local_blobs import LocalBlobStore, sync_directory
from postfleet.backends.local_queue import LocalQueue, QueueFile, boot_id, prepare_queues
from postfleet.backends.local_state import LocalStateTable, prepare_state
from postfleet.clock import Clock

RESERVE = 256 * 1024 * 1024
"""Free space below which no new mail is stored, bytes."""
STATE = "state.db"
QUEUES = "queues.db"
_QUEUE_NAME = re.compile(r"[a-z0-9-]+")


class LocalBackends:
    """The ports on one directory. Made by `open_local`; belongs to the loop that opened it."""

    def __init__(self, directory: Path, clock: Clock, visibility: float, reserve: int) -> None:
        self.blobs = LocalBlobStore(directory, reserve)
        self.state = LocalStateTable(directory / STATE, clock)
        self._queue_file = QueueFile(directory / QUEUES, directory / "bells", clock)
        self._visibility = visibility
        self._queues: dict[str, LocalQueue] = {}

    def queue(self, name: str) -> LocalQueue:
        """Raises `ValueError` for a name that is not of lower-case letters, digits and `-`."""
        if name not in self._queues:
            if not _QUEUE_NAME.fullmatch(name):
                raise ValueError(f"queue name {name!r}: use lower-case letters, digits and '-'")
            self._queues[name] = LocalQueue(name, self._queue_file, self._visibility)
        return self._queues[name]

    async def close(self) -> None:
        """Waits for what is being written."""
        await self._queue_file.close()
        await self.state.close()
        await self.blobs.close()

    async def __aenter__(self) -> LocalBackends:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def open_local(directory: Path, *, clock: Clock, visibility: float, reserve: int = RESERVE) -> LocalBackends:
    """Open the directory, making it where it is absent. `visibility` is the queues', seconds."""
    await asyncio.to_thread(_prepare, directory, clock)
    return LocalBackends(directory, clock, visibility, reserve)


def _prepare(directory: Path, clock: Clock) -> None:
    for part in ("blobs", "incoming", "bells"):
        (directory / part).mkdir(mode=0o700, parents=True, exist_ok=True)
    sync_directory(directory)
    sync_directory(directory.parent)
    prepare_state(directory / STATE)
    prepare_queues(directory / QUEUES, clock, boot_id())

"""Looking into the stores of a machine without taking part: queue entries and rows of one instant."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import Struct

from postfleet.backends.local import QUEUES, STATE
from postfleet.backends.local_snapshot import snapshots
from postfleet.clock import Clock
from postfleet.ports import Row

VISIBLE, IN_FLIGHT, DELAYED = "visible", "in flight", "delayed"

_ENTRIES = "SELECT queue, body, due, wall, receives FROM entry JOIN body USING (id) ORDER BY id"
_ROW = "SELECT partition, sort, version, body, expires FROM row WHERE partition = ? AND sort = ?"
_ROWS = """
SELECT partition, sort, version, body, expires FROM row WHERE partition >= ? AND partition < ? ORDER BY partition, sort
"""


class QueueEntry(Struct, frozen=True):
    queue: str
    state: str
    """`visible`, `in flight` or `delayed`."""
    until: float
    """When it becomes visible, Unix seconds; 0 where it is."""
    receives: int
    body: bytes


class Inspection:
    """The stores as they stood at one instant."""

    def __init__(self, state: sqlite3.Connection, queues: sqlite3.Connection, clock: Clock) -> None:
        self._state = state
        self._queues = queues
        self._clock = clock

    def entries(self) -> Iterator[QueueEntry]:
        """All queues' entries, oldest first, read lazily."""
        mono, now = self._clock.mono(), self._clock.now()
        for queue, body, due, wall, receives in self._queues.execute(_ENTRIES):
            if due is None or due <= mono:
                yield QueueEntry(queue, VISIBLE, 0.0, receives, body)
            else:
                state = IN_FLIGHT if wall is None else DELAYED
                yield QueueEntry(queue, state, now + due - mono, receives, body)

    def row(self, partition: str, sort: str = "") -> Row | None:
        found = self._state.execute(_ROW, (partition, sort)).fetchone()
        return Row(*found) if found else None

    def rows(self, folder: str) -> Iterator[Row]:
        """Of all partitions `<folder>/...`, read lazily."""
        for columns in self._state.execute(_ROWS, (f"{folder}/", f"{folder}0")):
            yield Row(*columns)


@contextmanager
def inspect(directory: Path, clock: Clock) -> Iterator[Inspection]:
    with snapshots(directory) as readers:
        yield Inspection(readers[STATE], readers[QUEUES], clock)

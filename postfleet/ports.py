"""The three ports through which every stage touches storage.

Promises that all implementations keep, and that the contract suite holds:

* A call that returns has taken effect durably.
* A call that raises `Unavailable` may or may not have taken effect; whoever
  calls must be able to repeat it.
* `Refused` and its kinds mean that nothing was stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from msgspec import Struct

MAX_DELAY = 900.0
"""Longest delay of a queue entry, seconds."""
MAX_ROW = 396 * 1024
"""Largest row body, bytes: with its keys it stays within the 400 KB that DynamoDB takes."""
MAX_ENTRY = 1024 * 1024
"""Largest queue entry, bytes."""


class StorageError(Exception):
    """Anything a port can raise."""


class Unavailable(StorageError):
    """The store did not answer: the call may or may not have taken effect."""


class Refused(StorageError):
    """The store said no; nothing was stored."""


class StoreFull(Refused):
    """There is no room left."""


class TooLarge(Refused):
    """A row, an entry or a delay is over the port's limit."""


class NotFound(Refused):
    """No such blob."""


class BlobStore(Protocol):
    """Named immutable byte strings. Keys are `/`-separated ASCII; the first part names the retention class."""

    async def put(self, key: str, data: bytes) -> None: ...

    async def append(self, key: str, data: bytes) -> tuple[str, int]:
        """Store `data` and say where: (key of the blob, offset in it). That may be this key, or a blob that several
        appends share, whose key begins with the same directories."""
        ...

    async def put_if_absent(self, key: str, data: bytes) -> bool:
        """Whether this call created the blob; False leaves the stored one as it is."""
        ...

    async def get(self, key: str, offset: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `offset` (to the end when None). Raises `NotFound`."""
        ...

    async def list(self, prefix: str, after: str = "", limit: int = 1000) -> list[str]:
        """Keys with this prefix, ascending, greater than `after`."""
        ...

    async def delete(self, keys: Sequence[str]) -> None:
        """Absent keys are no error."""
        ...


class Outgoing(Struct, frozen=True):
    """One entry to send. The body is UTF-8 text without control characters other than TAB, CR, LF."""

    body: bytes
    group: str = ""
    """Fairness group: the tenant whose entry this is."""
    delay: float = 0.0
    """Seconds until it can be received, at most `MAX_DELAY`."""


class Received(Struct, frozen=True):
    """One entry under lease."""

    body: bytes
    handle: str
    """Names this receipt; stale once the lease ran out and the entry was received again."""
    receives: int
    """How often the entry has been received, this time included."""
    group: str = ""


class QueueStats(Struct, frozen=True):
    visible: int
    in_flight: int
    delayed: int


class WorkQueue(Protocol):
    """At least once, unordered. A received entry is hidden for the queue's visibility time, then comes back."""

    async def send(self, entries: Sequence[Outgoing]) -> None:
        """Returns once all are durable. After `Unavailable` some may be."""
        ...

    async def receive(self, limit: int, wait: float) -> list[Received]:
        """Up to `limit` entries; waits up to `wait` seconds for the first."""
        ...

    async def extend(self, handles: Sequence[str]) -> None:
        """Hide these for a full visibility time from now. Stale handles are passed over."""
        ...

    async def ack(self, handles: Sequence[str]) -> None:
        """Remove these for good. Stale handles are passed over."""
        ...

    async def release(self, handles: Sequence[str], delay: float = 0.0) -> None:
        """Make these receivable again after `delay` seconds. Stale handles are passed over."""
        ...

    async def stats(self) -> QueueStats: ...


class Row(Struct, frozen=True):
    """One stored row. `version` starts at 1 and grows by 1 with each write."""

    partition: str
    sort: str
    version: int
    body: bytes
    expires: float | None = None
    """Unix seconds after which the store may drop the row at any time, or never: readers compare."""


class Written(Struct, frozen=True):
    """The result of a conditional write."""

    ok: bool
    row: Row | None
    """ok: the row as written. Not ok: the row that stands in the way, None where there is none."""


class StateTable(Protocol):
    """Rows by (partition, sort). Reads are strongly consistent; there are no transactions over rows."""

    async def get(self, partition: str, sort: str) -> Row | None: ...

    async def get_many(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Row]:
        """Those of the rows that exist."""
        ...

    async def put_if_absent(self, partition: str, sort: str, body: bytes, expires: float | None = None) -> Written: ...

    async def put_if(self, expected: Row, body: bytes, expires: float | None = None) -> Written:
        """Replace `expected` if its version still stands."""
        ...

    async def delete_if(self, expected: Row) -> bool:
        """Whether the row is gone: deleted now, or absent before."""
        ...

    async def add(self, partition: str, sort: str, amount: int, ceiling: int, expires: float | None = None) -> int:
        """Add up to `amount` (at least 0) to a counter that never passes `ceiling`; how much was added.

        A counter that does not exist counts as 0. Counters and rows live in separate name spaces.
        """
        ...

    async def query(
        self,
        partition: str,
        *,
        prefix: str = "",
        start: str = "",
        end: str | None = None,
        limit: int = 1000,
        descending: bool = False,
    ) -> list[Row]:
        """Rows of a partition in sort order whose sort key has `prefix` and lies in [start, end)."""
        ...


class Backends(Protocol):
    """What an entrypoint opens once and hands to its service."""

    @property
    def blobs(self) -> BlobStore: ...

    @property
    def state(self) -> StateTable: ...

    def queue(self, name: str) -> WorkQueue:
        """The named queue, made on first use. Names are lower-case letters, digits, `-`."""
        ...

    async def close(self) -> None: ...

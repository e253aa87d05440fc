"""Work queues on one SQLite file, with all queues of a deployment in it.

An entry whose `due` is NULL can be received. Otherwise it is hidden until
`due` on the clock that never steps: under lease, or, where `wall` is set,
delayed. That clock starts again at boot, so the file knows which boot it is of.
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path

from postfleet.backends.local_bell import Bells
from postfleet.backends.local_commit import Committer, connect, create, transaction
from postfleet.clock import Clock
from postfleet.ports import MAX_DELAY, MAX_ENTRY, Outgoing, QueueStats, Received, TooLarge, Unavailable

_SCHEMA = """
CREATE TABLE IF NOT EXISTS boot (id TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS entry (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    grp TEXT NOT NULL,
    due REAL,
    wall REAL,
    receives INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS entry_ready ON entry (queue, grp, id) WHERE due IS NULL;
CREATE INDEX IF NOT EXISTS entry_hidden ON entry (queue, due) WHERE due IS NOT NULL;
CREATE TABLE IF NOT EXISTS body (id INTEGER PRIMARY KEY, body BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS entry_gone AFTER DELETE ON entry BEGIN DELETE FROM body WHERE id = OLD.id; END;
"""
_LAST_ID = "SELECT seq FROM sqlite_sequence WHERE name = 'entry'"
_SEND = "INSERT INTO entry (id, queue, grp, due, wall) VALUES (?, ?, ?, ?, ?)"
_SEND_BODY = "INSERT INTO body (id, body) VALUES (?, ?)"
_REVEAL = """
UPDATE entry SET due = NULL, wall = NULL
WHERE id IN (SELECT id FROM entry WHERE queue = ? AND due <= ? ORDER BY due LIMIT 1000)
"""
_GROUPS = """
WITH RECURSIVE ready (grp) AS (
    SELECT min(grp) FROM entry WHERE queue = :queue AND due IS NULL AND grp >= :start
    UNION ALL
    SELECT (SELECT min(grp) FROM entry WHERE queue = :queue AND due IS NULL AND grp > ready.grp)
    FROM ready WHERE ready.grp IS NOT NULL
)
SELECT grp FROM ready WHERE grp IS NOT NULL LIMIT :limit
"""
_FIRST_OF_GROUP = "SELECT id FROM entry WHERE queue = ? AND grp = ? AND due IS NULL AND id > ? ORDER BY id LIMIT ?"
_LEASE = "UPDATE entry SET due = ?, receives = receives + 1 WHERE id IN (SELECT value FROM json_each(?))"
_LEASED = """
SELECT body, id || '.' || receives, receives, grp FROM entry JOIN body USING (id)
WHERE id IN (SELECT value FROM json_each(?))
"""
_NEXT_DUE = "SELECT min(due) FROM entry WHERE queue = ? AND due IS NOT NULL"
_HIDE = "UPDATE entry SET due = ?, wall = ? WHERE id = ? AND receives = ?"
_ACK = "DELETE FROM entry WHERE id = ? AND receives = ?"
_STATS = """
SELECT count(*) FILTER (WHERE due <= :now), count(*) FILTER (WHERE due > :now AND wall IS NULL),
       count(*) FILTER (WHERE due > :now AND wall IS NOT NULL)
FROM entry WHERE queue = :queue AND due IS NOT NULL
"""
_READY = "SELECT count(*) FROM entry WHERE queue = ? AND due IS NULL"

_LOOK_AGAIN = 1.0
"""A waiting receiver looks this often without being told, seconds: leases that others took run out silently."""


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def prepare_queues(path: Path, clock: Clock, boot: str) -> None:
    """Create the file, or after a reboot make what was in flight receivable and count delays on by the wall clock."""
    db, lock = create(path, _SCHEMA)
    with transaction(db, lock):
        if db.execute("SELECT 1 FROM boot WHERE id = ?", (boot,)).fetchone() is None:
            db.execute("DELETE FROM boot")
            db.execute("INSERT INTO boot (id) VALUES (?)", (boot,))
            db.execute("UPDATE entry SET due = NULL WHERE due IS NOT NULL AND wall IS NULL")
            db.execute(
                "UPDATE entry SET due = :mono + min(max(wall - :now, 0), :longest) WHERE wall IS NOT NULL",
                {"mono": clock.mono(), "now": clock.now(), "longest": MAX_DELAY},
            )
    db.close()
    lock.close()


class QueueFile:
    """What the queues of one process share: the writer thread, the bells, a reading connection."""

    def __init__(self, path: Path, bells: Path, clock: Clock) -> None:
        self.clock = clock
        self.bells = Bells(bells)
        self.reader = connect(path)
        self._to_ring: set[str] = set()
        self.committer = Committer(path, self._ring)

    def ring_after_commit(self, name: str) -> None:
        """From an operation."""
        self._to_ring.add(name)

    def _ring(self) -> None:
        for name in self._to_ring:
            self.bells.ring(name)
        self._to_ring.clear()

    async def close(self) -> None:
        await self.committer.close()
        self.bells.close()
        self.reader.close()


class LocalQueue:
    def __init__(self, name: str, file: QueueFile, visibility: float) -> None:
        self._name = name
        self._file = file
        self._clock = file.clock
        self._visibility = visibility
        self._last_group = ""

    async def send(self, entries: Sequence[Outgoing]) -> None:
        for entry in entries:
            if len(entry.body) > MAX_ENTRY:
                raise TooLarge(f"queue {self._name}: an entry of {len(entry.body)} bytes, more than {MAX_ENTRY}")
            self._check_delay(entry.delay)
        await self._file.committer.submit(partial(self._send, entries))

    async def receive(self, limit: int, wait: float) -> list[Received]:
        bell = self._file.bells.listen(self._name)
        deadline = self._clock.mono() + wait
        try:
            while True:
                bell.clear()
                received, next_due = await self._take(limit)
                now = self._clock.mono()
                if received or now >= deadline:
                    return received
                await _rung(bell, min(deadline - now, max(next_due - now, 0.0), _LOOK_AGAIN))
        finally:
            self._file.bells.forget(self._name, bell)

    async def extend(self, handles: Sequence[str]) -> None:
        await self._file.committer.submit(partial(self._hide, handles, self._visibility, False))

    async def ack(self, handles: Sequence[str]) -> None:
        await self._file.committer.submit(partial(self._ack, handles))

    async def release(self, handles: Sequence[str], delay: float = 0.0) -> None:
        self._check_delay(delay)
        await self._file.committer.submit(partial(self._hide, handles, delay, True))

    async def stats(self) -> QueueStats:
        return await asyncio.to_thread(self._count)

    def _count(self) -> QueueStats:
        db = self._file.reader
        ready: int = db.execute(_READY, (self._name,)).fetchone()[0]
        shown, in_flight, delayed = db.execute(_STATS, {"queue": self._name, "now": self._clock.mono()}).fetchone()
        return QueueStats(visible=ready + shown, in_flight=in_flight, delayed=delayed)

    def _check_delay(self, delay: float) -> None:
        if delay > MAX_DELAY:
            raise TooLarge(f"queue {self._name}: a delay of {delay} s is over {MAX_DELAY} s")

    async def _take(self, limit: int) -> tuple[list[Received], float]:
        taking = self._file.committer.submit(partial(self._lease, limit))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            taking.add_done_callback(self._give_back)
            raise

    def _give_back(self, taken: asyncio.Future[tuple[list[Received], float]]) -> None:
        """What was received for somebody who was cancelled meanwhile need not stay hidden."""
        if taken.exception() is None and taken.result()[0]:
            handles = [entry.handle for entry in taken.result()[0]]
            with suppress(Unavailable):
                self._file.committer.submit(partial(self._hide, handles, 0.0, True))

    # Operations: they run in the writer thread, inside its transaction.

    def _send(self, entries: Sequence[Outgoing], db: sqlite3.Connection) -> None:
        last = db.execute(_LAST_ID).fetchone()
        first = last[0] + 1 if last else 1
        numbered = list(enumerate(entries, first))
        db.executemany(_SEND, [(key, self._name, entry.group, *self._due(entry.delay)) for key, entry in numbered])
        db.executemany(_SEND_BODY, [(key, entry.body) for key, entry in numbered])
        self._file.ring_after_commit(self._name)

    def _due(self, delay: float) -> tuple[float, float] | tuple[None, None]:
        return (self._clock.mono() + delay, self._clock.now() + delay) if delay > 0 else (None, None)

    def _lease(self, limit: int, db: sqlite3.Connection) -> tuple[list[Received], float]:
        """What could be received, and when something hidden comes next."""
        now = self._clock.mono()
        db.execute(_REVEAL, (self._name, now))
        chosen = self._choose(limit, db)
        if not chosen:
            next_due = db.execute(_NEXT_DUE, (self._name,)).fetchone()[0]
            return [], float("inf") if next_due is None else next_due
        ids = json.dumps(chosen)
        db.execute(_LEASE, (now + self._visibility, ids))
        return [Received(*columns) for columns in db.execute(_LEASED, (ids,))], now

    def _choose(self, limit: int, db: sqlite3.Connection) -> list[int]:
        """Ids of entries, each group in turn, starting after the group that was served last."""
        groups = self._ready_groups(limit, db)
        served: dict[str, int] = dict.fromkeys(groups, 0)
        chosen: list[int] = []
        while groups and len(chosen) < limit:
            share = max(1, (limit - len(chosen)) // len(groups))
            for group in tuple(groups)[: limit - len(chosen)]:
                ids = [key for (key,) in db.execute(_FIRST_OF_GROUP, (self._name, group, served[group], share))]
                chosen += ids
                if len(ids) < share:
                    groups.remove(group)
                if ids:
                    served[group] = ids[-1]
                    self._last_group = group
        return chosen

    def _ready_groups(self, limit: int, db: sqlite3.Connection) -> list[str]:
        def ready_from(start: str) -> list[str]:
            return [group for (group,) in db.execute(_GROUPS, {"queue": self._name, "start": start, "limit": limit})]

        groups = ready_from(self._last_group + "\0")
        if len(groups) < limit:
            groups += [group for group in ready_from("") if group not in groups]
        return groups[:limit]

    def _hide(self, handles: Sequence[str], seconds: float, delayed: bool, db: sqlite3.Connection) -> None:
        until, wall = self._due(seconds)
        db.executemany(_HIDE, [(until, wall if delayed else None, *_parsed(handle)) for handle in handles])
        if delayed:
            self._file.ring_after_commit(self._name)

    def _ack(self, handles: Sequence[str], db: sqlite3.Connection) -> None:
        db.executemany(_ACK, [_parsed(handle) for handle in handles])


def _parsed(handle: str) -> tuple[int, int]:
    key, _, receives = handle.partition(".")
    return int(key), int(receives)


async def _rung(bell: asyncio.Event, timeout: float) -> None:
    try:
        async with asyncio.timeout(timeout):
            await bell.wait()
    except TimeoutError:
        pass

"""The state table on one SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from postfleet.backends.local_commit import Committer, connect, create, storage_error
from postfleet.clock import Clock
from postfleet.ports import MAX_ROW, Row, TooLarge, Written

_SCHEMA = """
CREATE TABLE IF NOT EXISTS row (
    id INTEGER PRIMARY KEY,
    partition TEXT NOT NULL,
    sort TEXT NOT NULL,
    version INTEGER NOT NULL,
    body BLOB NOT NULL,
    expires REAL,
    UNIQUE (partition, sort)
);
CREATE INDEX IF NOT EXISTS row_expires ON row (expires) WHERE expires IS NOT NULL;
CREATE TABLE IF NOT EXISTS counter (
    partition TEXT NOT NULL,
    sort TEXT NOT NULL,
    value INTEGER NOT NULL,
    expires REAL,
    PRIMARY KEY (partition, sort)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS counter_expires ON counter (expires) WHERE expires IS NOT NULL;
"""
_ROW = "SELECT partition, sort, version, body, expires FROM row WHERE partition = ? "
_GET = _ROW + "AND sort = ?"
_INSERT = "INSERT INTO row (partition, sort, version, body, expires) VALUES (?, ?, 1, ?, ?) ON CONFLICT DO NOTHING"
_UPDATE = """
UPDATE row SET version = version + 1, body = ?, expires = ? WHERE partition = ? AND sort = ? AND version = ?
"""
_DELETE = "DELETE FROM row WHERE partition = ? AND sort = ? AND version = ?"
_COUNT = "SELECT value FROM counter WHERE partition = ? AND sort = ?"
_SET_COUNT = """
INSERT INTO counter (partition, sort, value, expires) VALUES (?, ?, ?, ?)
ON CONFLICT DO UPDATE SET value = excluded.value, expires = excluded.expires
"""
_DROP_ROWS = "DELETE FROM row WHERE id IN (SELECT id FROM row WHERE expires < ? ORDER BY expires LIMIT 200)"
_DROP_COUNTERS = """
DELETE FROM counter WHERE (partition, sort) IN
    (SELECT partition, sort FROM counter WHERE expires < ? ORDER BY expires LIMIT 200)
"""

_DROP_EVERY = 1.0
_GRACE = 24 * 3600.0
"""Rows are dropped this long after they expired, seconds, so that a wall clock that steps forward drops none early."""


def prepare_state(path: Path) -> None:
    db, lock = create(path, _SCHEMA)
    db.close()
    lock.close()


class LocalStateTable:
    """Writes go through the group commit; reads are done in the loop, where they cost less than a thread."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._reader = connect(path)
        self._committer = Committer(path, lambda: None)
        self._dropped_at = 0.0

    async def get(self, partition: str, sort: str) -> Row | None:
        rows = self._read(_GET, (partition, sort))
        return rows[0] if rows else None

    async def get_many(self, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], Row]:
        return {key: row for key in keys for row in self._read(_GET, key)}

    async def put_if_absent(self, partition: str, sort: str, body: bytes, expires: float | None = None) -> Written:
        _check_size(partition, sort, body)
        return await self._committer.submit(partial(self._insert, Row(partition, sort, 1, body, expires)))

    async def put_if(self, expected: Row, body: bytes, expires: float | None = None) -> Written:
        _check_size(expected.partition, expected.sort, body)
        return await self._committer.submit(partial(self._update, expected, body, expires))

    async def delete_if(self, expected: Row) -> bool:
        return await self._committer.submit(partial(_delete, expected))

    async def add(self, partition: str, sort: str, amount: int, ceiling: int, expires: float | None = None) -> int:
        return await self._committer.submit(partial(self._add, (partition, sort), amount, ceiling, expires))

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
        clauses, values = ["AND sort >= ?"], [partition, max(prefix, start)]
        for bound in (end, _after_prefix(prefix)):
            if bound is not None:
                clauses.append("AND sort < ?")
                values.append(bound)
        clauses.append(f"ORDER BY sort {'DESC' if descending else 'ASC'} LIMIT {limit:d}")
        return self._read(_ROW + " ".join(clauses), values)

    async def close(self) -> None:
        await self._committer.close()
        self._reader.close()

    def _read(self, statement: str, values: Sequence[str]) -> list[Row]:
        try:
            return [Row(*columns) for columns in self._reader.execute(statement, values)]
        except sqlite3.Error as error:
            raise storage_error(error, self._path) from error

    # Operations: they run in the writer thread, inside its transaction.

    def _insert(self, row: Row, db: sqlite3.Connection) -> Written:
        self._drop_expired(db)
        done = db.execute(_INSERT, (row.partition, row.sort, row.body, row.expires)).rowcount
        return Written(True, row) if done else Written(False, _current(db, row))

    def _update(self, expected: Row, body: bytes, expires: float | None, db: sqlite3.Connection) -> Written:
        values = (body, expires, expected.partition, expected.sort, expected.version)
        if db.execute(_UPDATE, values).rowcount:
            return Written(True, Row(expected.partition, expected.sort, expected.version + 1, body, expires))
        return Written(False, _current(db, expected))

    def _add(
        self, key: tuple[str, str], amount: int, ceiling: int, expires: float | None, db: sqlite3.Connection
    ) -> int:
        self._drop_expired(db)
        counter = db.execute(_COUNT, key).fetchone()
        value = counter[0] if counter else 0
        added = max(0, min(amount, ceiling - value))
        if added:
            db.execute(_SET_COUNT, (*key, value + added, expires))
        return added

    def _drop_expired(self, db: sqlite3.Connection) -> None:
        """A bounded number, every so often: no commit is to wait for a great cleaning."""
        now = self._clock.mono()
        if now - self._dropped_at < _DROP_EVERY:
            return
        self._dropped_at = now
        for statement in (_DROP_ROWS, _DROP_COUNTERS):
            db.execute(statement, (self._clock.now() - _GRACE,))


def _delete(expected: Row, db: sqlite3.Connection) -> bool:
    gone = db.execute(_DELETE, (expected.partition, expected.sort, expected.version)).rowcount
    return bool(gone) or _current(db, expected) is None


def _current(db: sqlite3.Connection, row: Row) -> Row | None:
    columns = db.execute(_GET, (row.partition, row.sort)).fetchone()
    return Row(*columns) if columns else None


def _check_size(partition: str, sort: str, body: bytes) -> None:
    if len(body) > MAX_ROW:
        raise TooLarge(f"row {partition} {sort}: {len(body)} bytes are over {MAX_ROW}")


def _after_prefix(prefix: str) -> str | None:
    """The least string greater than everything with this prefix."""
    stem = prefix.rstrip("\U0010ffff")
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + ("\ue000" if following == 0xD800 else chr(following))

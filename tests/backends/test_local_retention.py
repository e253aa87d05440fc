from __future__ import annotations

import asyncio
import sqlite3
import time
from pathlib import Path

import pytest

from postfleet.backends import local_snapshot
from postfleet.backends.local import LocalBackends
from postfleet.backends.local_commit import connect
from postfleet.backends.local_retention import MailRetention
from postfleet.ports import Outgoing, Row


class HandClock:
    mono_now = 100.0

    def now(self) -> float:
        return 1e9

    def mono(self) -> float:
        return self.mono_now


class SlowToBegin:
    """A connection that leaves time for others before each of its snapshots."""

    def __init__(self, path: Path) -> None:
        self._db = connect(path)

    def execute(self, statement: str) -> sqlite3.Cursor:
        if statement == "BEGIN":
            time.sleep(0.03)
        return self._db.execute(statement)

    def close(self) -> None:
        self._db.close()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def retention(local: LocalBackends, tmp_path: Path, clock: HandClock) -> MailRetention:
    return MailRetention(tmp_path, clock, age=600.0)


async def test_a_blob_goes_when_unreferenced_for_long(
    local: LocalBackends, retention: MailRetention, clock: HandClock
) -> None:
    """Not when it is first seen without a reference, but once that has lasted."""
    await local.blobs.put("mail/1/a", b"")
    assert await retention.sweep() == 0
    clock.mono_now += 599
    assert await retention.sweep() == 0
    clock.mono_now += 2
    assert await retention.sweep() == 1
    assert await local.blobs.list("") == []


async def test_referenced_blobs_stay(local: LocalBackends, retention: MailRetention, clock: HandClock) -> None:
    """A key in an entry, also one in flight or delayed, or in a row keeps its blob; other classes are not touched."""
    keys = ["mail/1/visible", "mail/1/leased", "mail/1/delayed", "mail/1/row", "events/e"]
    await asyncio.gather(*(local.blobs.put(key, b"") for key in [*keys, "mail/1/none"]))
    await local.queue("a").send([Outgoing(b'[["mail/1/leased",0,5]]')])
    await local.queue("a").receive(1, 0)
    await local.queue("b").send([Outgoing(b'["mail/1/visible"]'), Outgoing(b'"mail/1/delayed"', delay=900)])
    await local.state.put_if_absent("p", "s", b'{"key":"mail/1/row"}')
    await sweep_twice(retention, clock)
    assert await local.blobs.list("") == sorted(keys)


async def test_a_blob_referred_to_again_starts_anew(
    local: LocalBackends, retention: MailRetention, clock: HandClock
) -> None:
    """Time without references before the last reference does not count."""
    await local.blobs.put("mail/a", b"")
    await retention.sweep()
    clock.mono_now += 500
    await local.queue("q").send([Outgoing(b'"mail/a"')])
    await retention.sweep()
    (entry,) = await local.queue("q").receive(1, 0)
    await local.queue("q").ack([entry.handle])
    clock.mono_now += 500
    assert await retention.sweep() == 0


async def test_a_repeated_put_if_absent_keeps_the_blob(
    local: LocalBackends, retention: MailRetention, clock: HandClock
) -> None:
    """Whoever was told that the blob exists is about to refer to it: its time starts anew."""
    await local.blobs.put("mail/a", b"")
    await retention.sweep()
    clock.mono_now += 601
    assert not await local.blobs.put_if_absent("mail/a", b"")
    assert await retention.sweep() == 0


async def test_a_moving_reference_is_never_missed(
    local: LocalBackends, tmp_path: Path, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While references go from queue to table and back, each new place written before the old is left, no blob goes."""
    monkeypatch.setattr(local_snapshot, "connect", SlowToBegin)
    retention = MailRetention(tmp_path, clock, age=0.0)
    keys = [f"mail/{n}" for n in range(5)]
    for key in keys:
        await local.blobs.put(key, b"")
        await local.queue("q").send([Outgoing(key.encode())])
    moving = [asyncio.create_task(move_about(local, 0.007 + 0.002 * n)) for n in range(5)]
    try:
        assert [await retention.sweep() for _ in range(10)] == [0] * 10
        assert not any(task.done() for task in moving)
    finally:
        for task in moving:
            task.cancel()
        await asyncio.gather(*moving, return_exceptions=True)
    assert await local.blobs.list("mail/") == keys


async def test_old_empty_directories_go(local: LocalBackends, tmp_path: Path, clock: HandClock) -> None:
    """A directory that has been empty for as long as blobs are kept is removed."""
    await local.blobs.put("mail/1/a", b"")
    clock.now = lambda: 4e9  # type: ignore[method-assign]
    await sweep_twice(MailRetention(tmp_path, clock, age=600.0), clock)
    assert not (tmp_path / "blobs" / "mail+" / "1+").exists()


async def sweep_twice(retention: MailRetention, clock: HandClock) -> None:
    await retention.sweep()
    clock.mono_now += 601
    await retention.sweep()


async def move_about(local: LocalBackends, stay: float) -> None:
    queue = local.queue("q")
    while True:
        (entry,) = await queue.receive(1, 5)
        await asyncio.sleep(stay)
        row = (await local.state.put_if_absent("p", entry.handle, entry.body)).row
        assert isinstance(row, Row)
        await queue.ack([entry.handle])
        await asyncio.sleep(stay)
        await queue.send([Outgoing(row.body)])
        await local.state.delete_if(row)

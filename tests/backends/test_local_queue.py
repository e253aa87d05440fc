from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from postfleet.backends.local import QUEUES, LocalBackends, open_local
from postfleet.ports import Outgoing


class StoppedClock:
    def __init__(self, now: float, mono: float) -> None:
        self.wall = now
        self.boot = mono

    def now(self) -> float:
        return self.wall

    def mono(self) -> float:
        return self.boot


async def test_a_wall_clock_step_changes_nothing(tmp_path: Path) -> None:
    """Leases and delays do not end when the wall clock jumps an hour ahead."""
    clock = StoppedClock(now=1e9, mono=100.0)
    async with await open_local(tmp_path, clock=clock, visibility=30.0) as backends:
        queue = backends.queue("q")
        await queue.send([Outgoing(b"leased"), Outgoing(b"delayed", delay=60)])
        await queue.receive(1, 0)
        clock.wall += 3600
        assert await queue.receive(10, 0) == []
        clock.boot += 61
        assert len(await queue.receive(10, 0)) == 2


async def test_a_reboot_ends_leases_and_keeps_delays(tmp_path: Path) -> None:
    """After a boot with another id the monotonic clock begins again: leases are void, delays count on by the wall."""
    clock = StoppedClock(now=1e9, mono=50_000.0)
    async with await open_local(tmp_path, clock=clock, visibility=30.0) as backends:
        await backends.queue("q").send([Outgoing(b"leased"), Outgoing(b"delayed", delay=100)])
        await backends.queue("q").receive(1, 0)
    with sqlite3.connect(tmp_path / QUEUES) as db:
        db.execute("UPDATE boot SET id = 'the boot before'")
    db.close()
    clock.wall, clock.boot = 1e9 + 40, 3.0
    async with await open_local(tmp_path, clock=clock, visibility=30.0) as backends:
        queue = backends.queue("q")
        (entry,) = await queue.receive(10, 0)
        assert (entry.body, entry.receives) == (b"leased", 2)
        clock.boot += 59
        assert await queue.receive(10, 0) == [entry.__class__(b"leased", "1.3", 3)]
        clock.boot += 2
        assert [late.body for late in await queue.receive(10, 0)] == [b"delayed"]


async def test_a_handle_never_names_a_later_entry(local: LocalBackends) -> None:
    """Acking with the receipt of an entry long gone cannot remove one that was sent since."""
    queue = local.queue("q")
    await queue.send([Outgoing(b"old")])
    (old,) = await queue.receive(1, 0)
    await queue.ack([old.handle])
    await queue.send([Outgoing(b"new")])
    (new,) = await queue.receive(1, 0)
    await queue.ack([old.handle])
    await queue.release([new.handle])
    assert len(await queue.receive(1, 0)) == 1


async def test_a_cancelled_receive_hides_nothing(local: LocalBackends) -> None:
    """What was taken for a receiver that was cancelled meanwhile can be received at once."""
    queue = local.queue("q")
    await queue.send([Outgoing(b"a")])
    receiving = asyncio.create_task(queue.receive(1, 10))
    await asyncio.sleep(0)
    receiving.cancel()
    assert len(await queue.receive(1, 5)) == 1


async def test_a_receiver_in_another_process_is_woken(local: LocalBackends, tmp_path: Path) -> None:
    """Another opening of the directory hears a send well before it would look again."""
    loop = asyncio.get_running_loop()
    async with await open_local(tmp_path, clock=local.queue("q")._clock, visibility=30.0) as other:
        times = []
        for _ in range(5):
            waiting = asyncio.create_task(other.queue("q").receive(1, 10))
            await asyncio.sleep(0.05)
            begin = loop.time()
            await local.queue("q").send([Outgoing(b"a")])
            assert await waiting
            times.append(loop.time() - begin)
    assert min(times) < 0.1


async def test_depth_does_not_slow_a_receive(local: LocalBackends) -> None:
    """With 20,000 entries of one tenant in front, each receive still brings a quiet tenant's and takes milliseconds."""
    queue = local.queue("q")
    await asyncio.gather(*(queue.send([Outgoing(b"x", group="noisy")] * 500) for _ in range(40)))
    await queue.send([Outgoing(b"x", group=f"quiet-{n}") for n in range(5)])
    loop = asyncio.get_running_loop()
    seen, begin = set(), loop.time()
    for _ in range(10):
        seen |= {entry.group for entry in await queue.receive(10, 0)}
    assert seen == {"noisy", *(f"quiet-{n}" for n in range(5))}
    assert loop.time() - begin < 1.0

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from asyncio.subprocess import PIPE, Process
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import support.store_process

from postfleet.backends.local import LocalBackends, open_local
from postfleet.clock import SystemClock
from postfleet.ports import Outgoing

Start = Callable[..., Awaitable[Process]]
ROOT = Path(__file__).parents[2]


@pytest.fixture
async def start(tmp_path: Path) -> AsyncIterator[Start]:
    processes: list[Process] = []

    async def start(role: str, *prefix: str) -> Process:
        command = [*prefix, sys.executable, "-P", support.store_process.__file__, str(tmp_path), role]
        process = await asyncio.create_subprocess_exec(
            *command, stdout=PIPE, stderr=PIPE, env={"PYTHONPATH": str(ROOT)}
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_processes_share_a_queue_without_loss_or_doubles(local: LocalBackends, start: Start) -> None:
    """Three processes receive what a fourth sends: each entry once."""
    receivers = [await start("drain") for _ in range(3)]
    for receiver in receivers:
        await said(receiver, "ready")
    bodies = [b"%d" % n for n in range(600)]
    for n in range(0, 600, 20):
        await local.queue("shared").send([Outgoing(body, group=str(n % 3)) for body in bodies[n : n + 20]])
    outputs = [await receiver.communicate() for receiver in receivers]
    assert Counter(body for output, _ in outputs for body in output.split()) == Counter(bodies)
    assert all(output for output, _ in outputs)


async def test_what_a_killed_process_was_told_is_stored_is(start: Start, tmp_path: Path) -> None:
    """After SIGKILL in the middle of writing, everything acknowledged reads back."""
    writer = await start("send-forever")
    await said(writer, "30")
    writer.kill()
    rest, _ = await writer.communicate()
    complete = rest.rpartition(b"\n")[0].split()
    last = int(complete[-1]) if complete else 30
    async with await open_local(tmp_path, clock=SystemClock(), visibility=30.0) as backends:
        bodies = {entry.body for entry in await backends.queue("shared").receive(100_000, 0)}
        for n in range(last + 1):
            assert b"%d" % n in bodies
            assert await backends.blobs.get(f"mail/{n // 10}/{n}") == b"%d" % n
            assert await backends.state.get("sent", f"{n}") is not None


async def test_a_killed_holder_of_the_lock_stops_nobody(local: LocalBackends, start: Start) -> None:
    """A process that died while writing leaves the others able to write."""
    writers = [await start("send-forever") for _ in range(2)]
    for writer in writers:
        await said(writer, "5")
        writer.kill()
    async with asyncio.timeout(5):
        assert (await local.state.put_if_absent("p", "s", b"")).ok


async def test_everything_is_there_after_a_reopen(tmp_path: Path) -> None:
    """Close and open again: entries, leases, rows, counters and blobs are as before."""
    async with await open_local(tmp_path, clock=SystemClock(), visibility=30.0) as first:
        await first.queue("q").send([Outgoing(b"leased"), Outgoing(b"later", delay=60)])
        (leased,) = await first.queue("q").receive(1, 0)
        await first.state.put_if_absent("p", "s", b"row")
        await first.state.add("p", "n", 7, 10)
        await first.blobs.put("mail/a", b"blob")
    async with await open_local(tmp_path, clock=SystemClock(), visibility=30.0) as second:
        stats = await second.queue("q").stats()
        assert (stats.visible, stats.in_flight, stats.delayed) == (0, 1, 1)
        await second.queue("q").ack([leased.handle])
        assert (await second.queue("q").stats()).in_flight == 0
        assert await second.state.get("p", "s") is not None
        assert await second.state.add("p", "n", 7, 10) == 3
        assert await second.blobs.get("mail/a") == b"blob"


@pytest.mark.foreign
async def test_nothing_is_acknowledged_before_it_is_synced(start: Start) -> None:
    """A send's WAL, a blob's file and both new directory entries are synced before the call returns."""
    strace = shutil.which("strace")
    assert strace, "strace is not installed: apt-get install strace"
    calls = "trace=write,fsync,fdatasync,rename,renameat,renameat2"
    process = await start("send-once", strace, "-f", "-y", "-e", calls, "-s", "16")
    _, trace = await process.communicate()
    lines = trace.decode().splitlines()
    ready, sent, put = (line_of(lines, rf'write\(1<.*"{word}') for word in ("ready", "sent", "put"))
    assert synced(lines[ready:sent], r"queues\.db-wal")
    renamed = line_of(lines, r"rename.*traced", after=sent)
    assert synced(lines[sent:renamed], r"/incoming/[0-9a-f]+")
    assert synced(lines[renamed:put], r"/blobs/mail\+/new\+")
    assert synced(lines[sent:put], r"/blobs/mail\+")


async def said(process: Process, line: str) -> None:
    assert process.stdout is not None
    while (heard := (await process.stdout.readline()).decode()) != line + "\n":
        assert heard, f"ended without saying {line}"


def line_of(lines: list[str], pattern: str, after: int = 0) -> int:
    return next(n for n in range(after, len(lines)) if re.search(pattern, lines[n]))


def synced(lines: list[str], file: str) -> bool:
    return any(re.search(rf"f(data)?sync\(\d+<[^>]*{file}>", line) for line in lines)

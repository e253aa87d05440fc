from __future__ import annotations

from pathlib import Path

from postfleet.backends.local import open_local
from postfleet.backends.local_inspect import inspect
from postfleet.clock import SystemClock
from postfleet.ports import Outgoing


async def test_every_entry_is_seen_with_its_state(tmp_path: Path) -> None:
    """Visible, in flight and delayed ones, and looking takes nothing."""
    clock = SystemClock()
    async with await open_local(tmp_path, clock=clock, visibility=60.0) as backends:
        queue = backends.queue("q")
        await queue.send([Outgoing(b"taken")])
        await queue.receive(1, 0.0)
        await queue.send([Outgoing(b"visible"), Outgoing(b"delayed", delay=500.0)])
        with inspect(tmp_path, clock) as inspection:
            entries = {entry.body: entry for entry in inspection.entries()}
        assert {body: entry.state for body, entry in entries.items()} == {
            b"taken": "in flight",
            b"visible": "visible",
            b"delayed": "delayed",
        }
        assert entries[b"visible"].until == 0.0
        assert 495.0 < entries[b"delayed"].until - clock.now() <= 500.0
        assert (await queue.stats()).visible == 1


async def test_rows_are_found_by_folder_and_by_name(tmp_path: Path) -> None:
    """A folder is all partitions below its name, and no other that begins alike."""
    async with await open_local(tmp_path, clock=SystemClock(), visibility=60.0) as backends:
        for partition in ("due/0", "due/3", "due", "dues/0", "claim/x"):
            await backends.state.put_if_absent(partition, "s", partition.encode())
        with inspect(tmp_path, SystemClock()) as inspection:
            assert [row.body for row in inspection.rows("due")] == [b"due/0", b"due/3"]
            row = inspection.row("claim/x", "s")
            assert row is not None and row.body == b"claim/x"
            assert inspection.row("claim/y") is None


async def test_an_inspection_is_of_one_instant(tmp_path: Path) -> None:
    """What is written afterwards, in whichever store, is not in it."""
    async with await open_local(tmp_path, clock=SystemClock(), visibility=60.0) as backends:
        with inspect(tmp_path, SystemClock()) as inspection:
            await backends.queue("q").send([Outgoing(b"late")])
            await backends.state.put_if_absent("due/0", "s", b"late")
            assert (list(inspection.entries()), list(inspection.rows("due"))) == ([], [])

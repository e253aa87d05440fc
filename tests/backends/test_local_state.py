from __future__ import annotations

from pathlib import Path

from postfleet.backends.local import open_local


class SteppedClock:
    wall = 1e9
    boot = 100.0

    def now(self) -> float:
        return self.wall

    def mono(self) -> float:
        return self.boot


async def test_expired_rows_and_counters_are_dropped_in_time(tmp_path: Path) -> None:
    """Later writes clear away what expired more than a day ago, and nothing else."""
    clock = SteppedClock()
    async with await open_local(tmp_path, clock=clock, visibility=30.0) as backends:
        state = backends.state
        await state.put_if_absent("p", "old", b"", expires=clock.wall + 10)
        await state.put_if_absent("p", "young", b"", expires=clock.wall + 100_000)
        await state.put_if_absent("p", "for good", b"")
        await state.add("p", "n", 5, 5, expires=clock.wall + 10)
        clock.wall += 90_000
        clock.boot += 90_000
        await state.put_if_absent("p", "trigger", b"")
        assert [row.sort for row in await state.query("p")] == ["for good", "trigger", "young"]
        assert await state.add("p", "n", 5, 5) == 5

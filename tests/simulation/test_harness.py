from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest
from simulation.loop import Deadlock
from simulation.process import SimProcess
from simulation.toy import Setting, toy_life
from simulation.world import World


def test_a_sleep_of_an_hour_takes_no_real_time(setting: Setting) -> None:
    """Virtual time jumps to the next timer when nothing is ready."""

    async def main() -> float:
        await asyncio.sleep(3599.0)
        return asyncio.get_running_loop().time()

    assert setting.run(main()) == 3599.0


def test_timeouts_and_task_groups_work(setting: Setting) -> None:
    """The structured parts of asyncio run unchanged on virtual time."""

    async def main() -> None:
        async with asyncio.timeout(10.0), asyncio.TaskGroup() as group:
            group.create_task(asyncio.sleep(1.0))
            group.create_task(asyncio.Event().wait())

    with pytest.raises(TimeoutError):
        setting.run(main())
    assert setting.world.loop.time() == 10.0


def test_order_of_ready_tasks_depends_on_the_seed() -> None:
    """Every await is a point where any ready task may go on."""

    def order(seed: int) -> str:
        log: list[str] = []

        async def letter(name: str) -> None:
            for _ in range(3):
                await asyncio.sleep(0)
                log.append(name)

        async def main() -> None:
            await asyncio.gather(*(letter(name) for name in "abcd"))

        World(seed).run(main())
        return "".join(log)

    assert order(1) == order(1)
    assert len({order(seed) for seed in range(5)}) == 5


def test_a_wait_without_end_is_reported_with_what_waits(setting: Setting) -> None:
    """When nothing can ever happen, `Deadlock` says which coroutine waits where."""

    async def forgotten() -> None:
        await asyncio.Event().wait()

    async def main() -> None:
        await forgotten()

    with pytest.raises(Deadlock, match=r"nothing can ever happen(?s:.*)forgotten"):
        setting.run(main())


def test_an_endless_loop_is_reported(setting: Setting) -> None:
    """Spinning without time passing raises `Deadlock` instead of hanging."""

    async def main() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(0)

    with pytest.raises(Deadlock, match="without time passing"):
        setting.run(main())


def test_the_horizon_ends_a_run_that_only_waits(setting: Setting) -> None:
    """A background loop of sleeps does not hide that the main task never ends."""

    async def main() -> None:
        ticks = asyncio.create_task(ticking())
        await asyncio.Event().wait()
        del ticks

    async def ticking() -> None:
        while True:  # noqa: ASYNC110
            await asyncio.sleep(5.0)

    with pytest.raises(Deadlock, match="not done by 3600"):
        setting.run(main())


def test_threads_are_refused(setting: Setting) -> None:
    """Code that leaves for a thread would not be deterministic."""

    async def main() -> None:
        await asyncio.to_thread(print)

    with pytest.raises(RuntimeError, match="no threads"):
        setting.run(main())


def test_what_a_bare_callback_raises_ends_the_run(setting: Setting) -> None:
    """An exception in a timer of the code under test is not lost."""

    async def main() -> None:
        asyncio.get_running_loop().call_later(1.0, lambda: 1 / 0)
        await asyncio.sleep(2.0)

    with pytest.raises(ZeroDivisionError):
        setting.run(main())


def test_a_crash_reaches_no_finally(setting: Setting) -> None:
    """A crashed process does not clean up while the simulation lasts."""
    process, _ = setting.process()
    seen: list[str] = []

    async def body() -> None:
        try:
            await asyncio.sleep(100.0)
        finally:
            seen.append("finally")

    async def main() -> list[str]:
        process.start(body())
        await asyncio.sleep(1.0)
        process.crash()
        await asyncio.sleep(1000.0)
        return list(seen)

    assert setting.run(main()) == []


def test_a_finally_after_a_crash_has_no_effect(setting: Setting) -> None:
    """Whatever unwinds once the world ends writes nothing."""
    process, ports = setting.process()

    async def body() -> None:
        try:
            await asyncio.sleep(100.0)
        finally:
            await ports.state.put_if_absent("p", "s", b"x")

    async def main() -> None:
        process.start(body())
        await asyncio.sleep(1.0)
        process.crash()

    setting.run(main())
    assert setting.stores.state.rows == {}


def test_tasks_made_by_a_process_die_with_it(setting: Setting) -> None:
    """Tasks and timers that the code makes belong to the process that made them."""
    process, _ = setting.process()
    ticks: list[float] = []

    async def tick() -> None:
        while True:
            ticks.append(asyncio.get_running_loop().time())
            await asyncio.sleep(1.0)

    async def body() -> None:
        asyncio.get_running_loop().call_later(5.0, ticks.append, -1.0)
        async with asyncio.TaskGroup() as group:
            group.create_task(tick())

    async def main() -> None:
        process.start(body())
        await asyncio.sleep(2.5)
        process.crash()
        await asyncio.sleep(10.0)

    setting.run(main())
    assert ticks == [0.0, 1.0, 2.0]


def test_a_paused_process_runs_what_fell_due_when_it_resumes(setting: Setting) -> None:
    """Time and other processes go on during a pause, and CLOCK_BOOTTIME counts it."""
    paused, _ = setting.process("paused")
    other, _ = setting.process("other")
    woke: dict[str, float] = {}

    async def body(process: SimProcess) -> None:
        before = process.clock.mono()
        await asyncio.sleep(3.0)
        woke[process.name] = process.clock.mono() - before

    async def main() -> None:
        for process in (paused, other):
            process.start(body(process))
        await asyncio.sleep(1.0)
        paused.pause(20.0)
        await asyncio.sleep(50.0)

    setting.run(main())
    assert woke == pytest.approx({"other": 3.0, "paused": 21.0})


def test_a_stepped_wall_clock_moves_one_process_only(setting: Setting) -> None:
    """Each process has its own wall clock, and steps of it leave the monotonic clock alone."""
    ahead, _ = setting.process("ahead")
    right, _ = setting.process("right")
    before = ahead.clock.mono()
    ahead.clock.step(3600.0)
    assert ahead.clock.now() - right.clock.now() == 3600.0
    assert ahead.clock.mono() == before


def test_a_process_ends_with_its_main(setting: Setting) -> None:
    """When main raises, the rest of the process stops too, and the error is kept."""
    process, _ = setting.process()
    ticks: list[int] = []

    async def tick() -> None:
        while True:
            await asyncio.sleep(1.0)
            ticks.append(1)

    async def body() -> None:
        ticking = asyncio.create_task(tick())
        await asyncio.sleep(2.5)
        del ticking
        raise ValueError("gone")

    async def main() -> None:
        process.start(body())
        await process.ended.wait()
        await asyncio.sleep(10.0)

    setting.run(main())
    assert (process.state, repr(process.error), len(ticks)) == ("exited", "ValueError('gone')", 2)


def test_system_exit_in_any_task_ends_the_process(setting: Setting) -> None:
    """`SystemExit` ends the process that raised it, not the simulation."""
    process, _ = setting.process()

    async def leave() -> None:
        raise SystemExit(3)

    async def body() -> None:
        leaving = asyncio.create_task(leave())
        await asyncio.sleep(100.0)
        del leaving

    async def main() -> float:
        process.start(body())
        await process.ended.wait()
        return asyncio.get_running_loop().time()

    assert setting.run(main()) == 0.0
    assert isinstance(process.error, SystemExit)


def test_equal_seeds_give_equal_traces() -> None:
    """A seed names one run, to the last event."""
    assert toy_life(7).digest() == toy_life(7).digest()
    assert toy_life(7).digest() != toy_life(8).digest()


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_traces_do_not_depend_on_the_interpreter(hash_seed: str) -> None:
    """Another process with other string hashes and addresses replays the same run."""
    imports = f"import sys; sys.path[:0] = {sys.path!r}; from simulation.toy import toy_life"
    program = f"{imports}; print(toy_life(7).digest())"
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    run = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == toy_life(7).digest()

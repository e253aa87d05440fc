from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from simulation.faults import CALM, Faults
from simulation.ports import SimBackends, duplicate
from simulation.process import SimProcess
from simulation.toy import Setting
from simulation.world import World, before, crash, do, fail, land, land_late, landed, lose_reply, pause, replied

from postfleet.ports import Outgoing, Unavailable


def _row(setting: Setting, sort: str = "s") -> bytes | None:
    row = World(0).run(setting.stores.state.get("p", sort))
    return row.body if row else None


def _outcome_of_put(setting: Setting, *hook: Any, wait: float = 60.0) -> str:
    """What a process that puts a row is told."""
    process, ports = setting.process()
    if hook:
        setting.world.on("w1", *hook)
    told = ["nothing"]

    async def body() -> None:
        try:
            written = await ports.state.put_if_absent("p", "s", b"x")
            told[0] = "ok" if written.ok else "conflict"
        except Unavailable:
            told[0] = "unavailable"
        await asyncio.sleep(3600.0)

    async def main() -> None:
        process.start(body())
        await asyncio.sleep(wait)

    setting.run(main())
    return told[0]


@pytest.mark.parametrize(
    ("hook", "told", "stored"),
    [
        ((), "ok", True),
        ((before("state.put_if_absent", "p/"), fail), "unavailable", False),
        ((before("state.put_if_absent", "p/"), lose_reply), "unavailable", True),
        ((before("state.put_if_absent", "p/"), land_late(30.0)), "unavailable", True),
        ((before("state.put_if_absent", "p/"), crash), "nothing", False),
        ((before("state.put_if_absent", "p/"), land, crash), "nothing", True),
        ((landed("state.put_if_absent", "p/"), crash), "nothing", True),
        ((replied("state.put_if_absent", "p/"), crash), "nothing", True),
        ((before("state.put_if_absent", "p/"), land_late(30.0), crash), "nothing", True),
        ((before("state.put_if_absent", "p/"), pause(10.0)), "ok", True),
        ((before("state.put_if_absent", "other/"), crash), "ok", True),
        ((before("state.put_if_absent", nth=2), crash), "ok", True),
    ],
)
def test_a_hook_decides_what_becomes_of_a_call(setting: Setting, hook: Any, told: str, stored: bool) -> None:
    """Directed faults hit exactly the call and the moment that they name."""
    assert _outcome_of_put(setting, *hook) == told
    assert (_row(setting) is not None) == stored


def test_a_late_write_is_judged_when_it_lands(setting: Setting) -> None:
    """The condition of a late put is evaluated at its landing: whoever came in between wins."""
    process, ports = setting.process("w1")
    other, others = setting.process("w2")
    setting.world.on("w1", before("state.put_if_absent", "p/"), land_late(30.0), crash)

    async def main() -> None:
        process.start(ports.state.put_if_absent("p", "s", b"late"))
        await asyncio.sleep(10.0)
        other.start(others.state.put_if_absent("p", "s", b"first"))
        await asyncio.sleep(60.0)

    setting.run(main())
    assert _row(setting) == b"first"
    assert [call.result.ok for call in setting.world.calls] == [True, False]


def test_a_call_in_flight_at_a_crash_lands_or_not_or_late() -> None:
    """The seed draws which of the three becomes of a write that was under way."""
    fates = set()
    for seed in range(20):
        setting = Setting(seed, Faults(latency=(1.0, 1.0)))
        process, ports = setting.process()

        async def main(process: SimProcess = process, ports: SimBackends = ports) -> None:
            process.start(ports.state.put_if_absent("p", "s", b"x"))
            await asyncio.sleep(0.5)
            process.crash()
            await asyncio.sleep(100.0)

        setting.run(main())
        landings = [call.landed or 0.0 for call in setting.world.calls]
        fates.add("late" if landings and landings[0] > 1.0 else "landed" if landings else "lost")
    assert fates == {"late", "landed", "lost"}


def test_a_batch_can_take_effect_in_part() -> None:
    """After `Unavailable` some entries of one send are there and some are not."""
    setting = Setting(1, Faults(partial=1.0, jitter=(0.0, 0.0)))
    process, ports = setting.process()
    told: list[str] = []

    async def body() -> None:
        try:
            await ports.queue("q").send([Outgoing(b"%d" % n) for n in range(20)])
        except Unavailable:
            told.append("unavailable")

    async def main() -> int:
        process.start(body())
        await process.ended.wait()
        return (await setting.stores.queue("q").stats()).visible

    assert 0 < setting.run(main()) < 20
    assert told == ["unavailable"]


def test_throttling_refuses_all_calls_of_a_process_for_a_while() -> None:
    """A throttled process is turned away until the throttling ends, and nobody else is."""
    setting = Setting(1, Faults(throttled=1.0, throttled_for=(5.0, 5.0)))
    world = setting.world
    process, _ = setting.process()
    assert world.throttles(process, "state")
    world.faults = CALM
    assert world.throttles(process, "state")
    assert not world.throttles(process, "queue")


def _received_bodies(setting: Setting, consume: Callable[[SimBackends], Coroutine[Any, Any, Any]]) -> Any:
    process, ports = setting.process()

    async def main() -> Any:
        await setting.stores.queue("q").send([Outgoing(b"entry")])
        return await process.spawn(consume(ports))

    return setting.run(main())


def test_an_entry_is_delivered_again_though_its_lease_holds(setting: Setting) -> None:
    """A directed duplicate is a second copy with a receipt of its own."""
    setting.world.on("w1", landed("queue.receive", "q"), duplicate())

    async def consume(ports: SimBackends) -> list[bytes]:
        first = await ports.queue("q").receive(1, 1.0)
        second = await ports.queue("q").receive(1, 1.0)
        return [entry.body for entry in first + second]

    assert _received_bodies(setting, consume) == [b"entry", b"entry"]


def test_a_copy_comes_back_after_the_ack() -> None:
    """An acked entry can be delivered once more when its copy arrives late."""
    setting = Setting(1, Faults(duplicated=1.0, duplicated_after=(20.0, 20.0)))

    async def consume(ports: SimBackends) -> list[bytes]:
        queue = ports.queue("q")
        first = await queue.receive(1, 1.0)
        await queue.ack([entry.handle for entry in first])
        setting.world.heal()
        second = await queue.receive(1, 60.0)
        return [entry.body for entry in first + second]

    assert _received_bodies(setting, consume) == [b"entry", b"entry"]


def test_healing_ends_the_faults_of_chance() -> None:
    """After `heal` every call succeeds."""
    setting = Setting(1, Faults(failed=1.0, throttled=1.0))
    setting.world.heal()
    assert _outcome_of_put(setting) == "ok"


def test_a_hook_can_crash_another_process(setting: Setting) -> None:
    """`do` runs any action at a point of somebody else's."""
    victim, _ = setting.process("victim")
    setting.world.on("w1", landed("state.put_if_absent"), do(victim.crash))
    assert _outcome_of_put(setting) == "ok"
    assert victim.state == "crashed"

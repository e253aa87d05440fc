from __future__ import annotations

import asyncio

import pytest
from simulation.audit import clock_steal, lease_gate
from simulation.ports import SimBackends
from simulation.process import SimProcess
from simulation.toy import Setting, send_one

from postfleet.lease import LeaseKeeper
from postfleet.settings import Settings

SETTINGS = Settings()


def _lease_keeper(process: SimProcess, ports: SimBackends) -> LeaseKeeper:
    return LeaseKeeper(ports.state, process.id, clock=process.clock, settings=SETTINGS, on_fenced=lambda _: None)


async def _renewing(keeper: LeaseKeeper) -> None:
    await keeper.start()
    await keeper.run()


def test_mail_sent_after_the_lease_ran_out_is_a_violation(setting: Setting) -> None:
    """`lease_gate` counts from the sending of the last renewal, on a clock that runs through pauses."""
    process, ports = setting.process()

    async def body() -> None:
        await _lease_keeper(process, ports).start()
        await send_one(process, setting.mx, "early@x.test")
        await asyncio.sleep(SETTINGS.lease_time)
        await send_one(process, setting.mx, "late@x.test")

    async def main() -> None:
        process.start(body())
        await process.ended.wait()

    setting.run(main())
    names = [violation.split()[1] for violation in lease_gate(setting.world, SETTINGS.lease_time)]
    assert names == ["mx.mail", "mx.dot"]


def test_mail_sent_while_renewing_is_none(setting: Setting) -> None:
    """A worker whose lease holds may begin at any time."""
    process, ports = setting.process()

    async def body() -> None:
        renewing = asyncio.create_task(_renewing(_lease_keeper(process, ports)))
        await asyncio.sleep(100.0)
        await send_one(process, setting.mx, "a@x.test")
        renewing.cancel()

    async def main() -> None:
        process.start(body())
        await process.ended.wait()

    setting.run(main())
    assert lease_gate(setting.world, SETTINGS.lease_time) == []


def _burial(setting: Setting, *, crash_owner: bool) -> list[str]:
    """Violations after w2 tried to take the lease of w1 for a minute, with its wall clock an hour ahead."""
    (owner, owners), (heir, heirs) = setting.process("w1"), setting.process("w2")
    heir.clock.step(3600.0)

    async def take() -> None:
        keeper = _lease_keeper(heir, heirs)
        await keeper.start()
        while not await keeper.bury(owner.id):  # noqa: ASYNC110
            await asyncio.sleep(1.0)

    async def main() -> None:
        owner.start(_renewing(_lease_keeper(owner, owners)))
        await asyncio.sleep(10.0)
        heir.start(take())
        if crash_owner:
            owner.crash()
        await asyncio.sleep(60.0)

    setting.run(main())
    assert heir.state == ("exited" if crash_owner else "over")
    return clock_steal(setting.world, SETTINGS.lease_time)


@pytest.mark.parametrize("crash_owner", [False, True])
def test_a_lease_taken_after_it_stood_still_is_no_theft(setting: Setting, crash_owner: bool) -> None:
    """Only a worker that stopped renewing is taken over, whatever the wall clocks say."""
    assert _burial(setting, crash_owner=crash_owner) == []


def test_a_lease_taken_from_a_living_worker_is_a_violation(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """`clock_steal` sees a take-over within a lease time of a renewal."""
    monkeypatch.setattr(LeaseKeeper, "stood_still", lambda self, owner, now: True)
    assert "but its owner renewed it" in _burial(setting, crash_owner=True)[0]

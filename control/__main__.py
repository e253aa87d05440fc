"""`python -P -m control --data DIR`: the fleet controller, and the sweep of mail that nothing needs any more.

On AWS that is not swept but expires, by the bucket's rules (`postfleet/backends/aws_setup.py`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

import structlog

from control.fleet import FleetController, refuse_none
from control.identity import Identities
from control.probe import probe
from postfleet.backends.local_retention import MailRetention
from postfleet.backends.opening import open_stores
from postfleet.clock import SystemClock
from postfleet.dns.query import Nameservers
from postfleet.dns.resolver import Resolver
from postfleet.process import data_dir_argument, on_terminate, run_service

log = structlog.get_logger()

PROBE_EVERY = 1.0
PROBE_TIMEOUT = 2.0
SWEEP_EVERY = 60.0


async def repeat(name: str, action: Callable[[], Awaitable[object]], every: float, stop: asyncio.Event) -> None:
    """Until stopped. An action that fails is logged and tried again at its next time."""
    while not stop.is_set():
        try:
            await action()
        except Exception:
            log.exception(f"{name}_failed")
        try:
            async with asyncio.timeout(every):
                await stop.wait()
        except TimeoutError:
            continue


async def main() -> int:
    data, clock, stop = data_dir_argument("control"), SystemClock(), asyncio.Event()
    deployment = data.deployment()
    async with await open_stores(data, clock) as backends:
        refuse = Identities(Resolver(Nameservers.of_system(), clock)).objection if deployment.live else refuse_none
        ask = partial(probe, timeout=PROBE_TIMEOUT)
        fleet = FleetController(backends.state, deployment.proxies, ask, clock, refuse)
        on_terminate(stop.set)
        log.info("control_started", proxies=len(deployment.proxies))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(repeat("fleet_round", fleet.round, PROBE_EVERY, stop))
            if deployment.aws is None:
                retention = MailRetention(data.store, clock)
                tasks.create_task(repeat("mail_sweep", retention.sweep, SWEEP_EVERY, stop))
    return 0


if __name__ == "__main__":
    run_service("control", main)

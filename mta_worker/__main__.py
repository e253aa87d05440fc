"""`python -P -m mta_worker --data DIR`: wires a worker to its stores, clock and way out."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

import structlog

from mta_worker.contents import Contents
from mta_worker.order import OrderRunner
from mta_worker.postman import Postman
from mta_worker.service import Worker
from postfleet.accept import UNITS
from postfleet.backends.opening import open_stores
from postfleet.claim import Claims
from postfleet.clock import SystemClock
from postfleet.directory import Directory
from postfleet.dns.site_resolver import open_sites
from postfleet.events import EVENTS, EventWriter
from postfleet.ids import nonce
from postfleet.journal import Journal
from postfleet.lease import LeaseKeeper
from postfleet.park import Parks
from postfleet.process import EX_TEMPFAIL, data_dir_argument, on_terminate, run_service, system_random
from postfleet.providers import LANES


class ProxyNetwork:
    async def connect(self, factory: Callable[[], asyncio.Protocol], host: str, port: int) -> None:
        await asyncio.get_running_loop().create_connection(factory, host, port)


def fenced(reason: str) -> None:
    """Another process has taken this worker's Orders over: no byte more may leave it."""
    structlog.get_logger().error("taken_over", reason=reason)
    os._exit(EX_TEMPFAIL)


async def main() -> int:
    data = data_dir_argument("mta_worker")
    settings, deployment, secrets = data.settings(), data.deployment(), data.secrets()
    clock, rng = SystemClock(), system_random()
    incarnation = nonce(rng)
    async with await open_stores(data, clock) as backends:
        state = backends.state
        directory = Directory(state, whole_every=settings.snapshot_whole)
        leases = LeaseKeeper(state, incarnation, clock=clock, settings=settings, on_fenced=fenced)
        journal = Journal(state, incarnation, clock=clock, settings=settings, on_fenced=fenced)
        postman = Postman(
            directory=directory,
            sites=open_sites(
                clock,
                rng,
                data.providers(),
                nameserver=deployment.dns,
                port=deployment.delivery_port,
                route=deployment.route,
            ),
            network=ProxyNetwork(),
            state=state,
            leases=leases,
            clock=clock,
            settings=settings,
            proxy_key=bytes.fromhex(secrets.proxy_key),
            return_path_key=bytes.fromhex(secrets.return_path_key),
        )
        runner = OrderRunner(
            backends,
            claims=Claims(state, leases, journal, clock=clock, settings=settings, rng=rng),
            journal=journal,
            events=EventWriter(
                blobs=backends.blobs,
                announcements=backends.queue(EVENTS),
                clock=clock,
                settings=settings,
                rng=rng,
            ),
            parks=Parks(units=backends.queue(UNITS), state=state, clock=clock, settings=settings, rng=rng),
            contents=Contents(backends.blobs),
            delivery=postman,
            clock=clock,
            settings=settings,
        )
        worker = Worker(
            backends,
            lanes=LANES,
            runner=runner,
            postman=postman,
            leases=leases,
            directory=directory,
            settings=settings,
        )
        on_terminate(worker.stop)
        await worker.run()
    return 0


if __name__ == "__main__":
    run_service("mta_worker", main)

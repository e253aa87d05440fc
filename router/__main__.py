"""`python -P -m router --data DIR`: wires the router to its stores and clock."""

from __future__ import annotations

from postfleet.accept import UNITS
from postfleet.backends.opening import open_stores
from postfleet.clock import SystemClock
from postfleet.directory import Directory
from postfleet.dns.site_resolver import open_sites
from postfleet.events import EVENTS, EventWriter
from postfleet.park import Parks
from postfleet.process import data_dir_argument, on_terminate, run_service, system_random
from router.service import Router


async def main() -> int:
    data = data_dir_argument("router")
    settings, deployment = data.settings(), data.deployment()
    clock, rng = SystemClock(), system_random()
    async with await open_stores(data, clock) as backends:
        router = Router(
            backends,
            directory=Directory(backends.state, whole_every=settings.snapshot_whole),
            sites=open_sites(
                clock,
                rng,
                data.providers(),
                nameserver=deployment.dns,
                port=deployment.delivery_port,
                route=deployment.route,
            ),
            events=EventWriter(
                blobs=backends.blobs,
                announcements=backends.queue(EVENTS),
                clock=clock,
                settings=settings,
                rng=rng,
            ),
            parks=Parks(units=backends.queue(UNITS), state=backends.state, clock=clock, settings=settings, rng=rng),
            clock=clock,
            settings=settings,
        )
        on_terminate(router.stop)
        await router.run()
    return 0


if __name__ == "__main__":
    run_service("router", main)

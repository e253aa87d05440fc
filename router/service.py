"""The router: one unit at a time, read the plan or make it, do what it says, then ack."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog
from msgspec.structs import replace

from postfleet.accept import UNITS
from postfleet.clock import Clock
from postfleet.consume import Consumer
from postfleet.directory import Directory
from postfleet.dns.site_resolver import Sites
from postfleet.dns.sites import SiteAnswer
from postfleet.events import EventWriter
from postfleet.gather import Gatherer
from postfleet.layout import PACK_MESSAGES, chunks
from postfleet.park import Parks, sweep
from postfleet.ports import Backends, Outgoing, StorageError
from postfleet.settings import Settings
from postfleet.stages import (
    Group,
    Manifest,
    Order,
    Plan,
    Unit,
    UnitEntry,
    decode_messages,
    decode_plan,
    decode_unit_entry,
    encode,
)
from router.plan import Snapshot, domain_of, flatten, plan_unit
from router.release import by_lane, entries_of, events_of, orders_of, parks_of

log = structlog.get_logger()

MESSAGES_IN_HAND = 50_000


class Router:
    def __init__(
        self,
        backends: Backends,
        *,
        directory: Directory,
        sites: Sites,
        events: EventWriter,
        parks: Parks,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._backends = backends
        self._units = backends.queue(UNITS)
        self._directory = directory
        self._sites = sites
        self._events = events
        self._parks = parks
        self._clock = clock
        self._settings = settings
        self._consumer = Consumer(
            self._units,
            _things,
            self.handle,
            room=self._room,
            extend_every=settings.visibility_extend,
            linger=settings.receive_linger,
            ack_window=settings.ack_window,
            batch=settings.receive_batch,
            weigh=_weight,
        )
        self._lanes: dict[str, Gatherer[Order]] = {}

    async def run(self) -> None:
        """Until `stop`."""
        await self._directory.refresh()
        tasks = [asyncio.create_task(self._keep_fresh()), asyncio.create_task(self._keep_sweeping())]
        try:
            await self._consumer.run()
        finally:
            for task in tasks:
                task.cancel()

    def stop(self) -> None:
        self._consumer.stop()

    def _room(self) -> int:
        full = self._consumer.load >= MESSAGES_IN_HAND
        return 0 if full else self._settings.router_units - self._consumer.in_flight

    async def handle(self, thing: Unit | Manifest) -> None:
        if isinstance(thing, Manifest):
            await self._expand(thing)
        else:
            await self._route(thing)

    async def _expand(self, manifest: Manifest) -> None:
        group = str(manifest.transmission.tenant)
        await self._units.send([Outgoing(encode(UnitEntry(units=(chunk,))), group=group) for chunk in chunks(manifest)])

    async def _route(self, unit: Unit) -> None:
        unit = await self._with_page(unit)
        plan = await self._plan(unit)
        await self._release(unit, plan)
        await self._parks.write(parks_of(unit, plan))
        await self._events.write(events_of(unit, plan))

    async def _with_page(self, unit: Unit) -> Unit:
        if unit.page is None:
            return unit
        page = await self._backends.blobs.get(unit.page.key, unit.page.offset, unit.page.length)
        return replace(unit, groups=(Group(unit.groups[0].transmission, decode_messages(page)),), page=None)

    async def _plan(self, unit: Unit) -> Plan:
        """The stored plan; a new one is stored *if absent*, and what is stored counts."""
        destinations = await self._destinations({domain_of(message.address) for _, message in flatten(unit)})
        snapshot = Snapshot(self._directory.pools, self._directory.bindings, self._directory.suspensions)
        plan = plan_unit(unit, destinations, snapshot, self._settings, self._clock.now())
        written = await self._backends.state.put_if_absent(f"plan/{unit.id}", "", encode(plan), self._expiry(unit))
        if written.ok or written.row is None:
            return plan
        return decode_plan(written.row.body)

    async def _destinations(self, domains: set[str]) -> dict[str, SiteAnswer]:
        known = {domain: self._sites.cached_site_of(domain) for domain in sorted(domains)}
        unknown = [domain for domain, answer in known.items() if answer is None]
        answers = await asyncio.gather(*map(self._sites.site_of, unknown))
        return known | dict(zip(unknown, answers, strict=True))  # type: ignore[return-value]

    async def _release(self, unit: Unit, plan: Plan) -> None:
        lanes = by_lane(orders_of(unit, plan))
        await asyncio.gather(*(self._lane(lane).put(orders) for lane, orders in lanes.items()))

    def _lane(self, name: str) -> Gatherer[Order]:
        if name not in self._lanes:
            queue = self._backends.queue(name)

            async def send(orders: list[Order]) -> None:
                await queue.send(entries_of(orders))

            self._lanes[name] = Gatherer(send, busy_window=self._settings.send_window)
        return self._lanes[name]

    def _expiry(self, unit: Unit) -> float:
        last = max(group.transmission.expires_at for group in unit.groups)
        return max(last, self._clock.now()) + self._settings.row_retention

    # ------------------------------------------------------------ side tasks

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(self._settings.snapshot_refresh)
            try:
                await self._directory.refresh()
            except StorageError as error:
                log.warning("snapshot_not_renewed", error=str(error))

    async def _keep_sweeping(self) -> None:
        while True:
            try:
                moved = await sweep(units=self._units, state=self._backends.state, now=self._clock.now())
                if moved:
                    log.info("parks_swept", moved=moved)
            except StorageError as error:
                log.warning("sweep_failed", error=str(error))
            await asyncio.sleep(self._settings.sweep_every)


def _weight(thing: Unit | Manifest) -> int:
    """Messages in hand; how many a page has is seen later."""
    if isinstance(thing, Manifest):
        return 1
    return PACK_MESSAGES if thing.page else sum(len(group.messages) for group in thing.groups)


def _things(body: bytes) -> Sequence[Unit | Manifest]:
    entry = decode_unit_entry(body)
    return [*entry.units, *entry.manifests]

"""What the audits say of a world at its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from simulation.audit import clock_steal, lease_gate
from simulation.client import Client
from simulation.services import Platform, message_of
from simulation.world import Call, World
from support.memory_backends import MemoryBackends

from postfleet import audit
from postfleet.audit import Pending
from postfleet.event_log import read_events
from postfleet.events import EVENTS
from postfleet.stages import (
    Claim,
    Group,
    Unit,
    UnitEntry,
    decode_claim,
    decode_messages,
    decode_order_entry,
    decode_unit_entry,
    message_id,
)

DUE = "due/"


def pending(stores: MemoryBackends) -> list[Pending]:
    """Every message in a queue entry or a due row."""
    found: list[Pending] = []
    for name, queue in stores.queues.items():
        for entry in queue.entries.values():
            if name == "units":
                found += _in_units(stores, decode_unit_entry(entry.body), "units")
            elif name != EVENTS:
                found += [
                    each for order in decode_order_entry(entry.body).orders for each in _in_groups(order.groups, name)
                ]
    for (partition, _), row in stores.state.rows.items():
        if partition.startswith(DUE):
            found += _in_units(stores, decode_unit_entry(row.body), "park")
    return found


def _in_units(stores: MemoryBackends, entry: UnitEntry, place: str) -> Iterator[Pending]:
    for unit in entry.units:
        yield from _in_groups(_with_page(stores, unit).groups, place)
    for manifest in entry.manifests:
        for page in manifest.pages:
            data = stores.blobs.blobs[page.key][page.offset : page.offset + page.length]
            yield from _in_groups([Group(manifest.transmission, decode_messages(data))], place)


def _with_page(stores: MemoryBackends, unit: Unit) -> Unit:
    if unit.page is None:
        return unit
    data = stores.blobs.blobs[unit.page.key][unit.page.offset : unit.page.offset + unit.page.length]
    return Unit(unit.id, unit.tenant, (Group(unit.groups[0].transmission, decode_messages(data)),))


def _in_groups(groups: Iterable[Group], place: str) -> Iterator[Pending]:
    for group in groups:
        for message in group.messages:
            yield Pending(message_id(group.transmission.id, message.index), message.address, place)


async def violations(platform: Platform, client: Client) -> list[str]:
    """Everything that is wrong with a world whose platform was drained."""
    world, stores = platform.world, platform.stores
    events = [event async for event in read_events(stores.blobs)]
    report = audit.audit(client.hand_overs, events, pending(stores), platform.mx.ledger, message_of, final=True)
    lease_time = platform.settings.lease_time
    return [
        *(f"{each.kind} {each.subject}: {each.detail}" for each in report.violations),
        *(f"lease_gate: {each}" for each in lease_gate(world, lease_time)),
        *(f"clock_steal: {each}" for each in clock_steal(world, lease_time)),
        *(f"claim: {each}" for each in claim_rules(world)),
        *(f"loop: {each}" for each in world.loop.complaints),
        *(f"log: {detail}" for _, _, what, detail in world.trace if what in ("log error", "log exception")),
    ]


def claim_rules(world: World) -> list[str]:
    """A done row stays as it is; no outcome leaves an unfinished row; take-overs are only ever counted up."""
    rows: dict[str, Claim] = {}
    found: list[str] = []
    for call in filter(_is_claim_write, world.calls):
        claim, before = decode_claim(call.args[0]), rows.get(call.key)
        rows[call.key] = claim
        if before is not None:
            found += [f"{call!r} {what}" for what in _broken(before, claim)]
    return found


def _is_claim_write(call: Call) -> bool:
    return call.key.startswith("claim/") and call.result.ok


def _broken(before: Claim, claim: Claim) -> Iterator[str]:
    if before.state == "done":
        yield "rewrites a done row"
    if claim.state != "done" and not set(before.outcomes) <= set(claim.outcomes):
        yield "forgets outcomes"
    if claim.takeovers < before.takeovers:
        yield "counts take-overs down"

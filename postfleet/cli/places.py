"""Where messages rest: units and Orders in queues, claims and parks, as one look into the stores found them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from postfleet.accept import UNITS
from postfleet.audit import Pending
from postfleet.backends.local_inspect import DELAYED, Inspection, QueueEntry
from postfleet.cli.story import clock_time, duration, printable
from postfleet.layout import chunks
from postfleet.ports import BlobStore, NotFound, Row, StateTable
from postfleet.providers import LANES
from postfleet.stages import (
    BlobRef,
    Claim,
    Group,
    Message,
    Transmission,
    Unit,
    decode_claim,
    decode_messages,
    decode_order_entry,
    decode_plan,
    decode_unit_entry,
    message_id,
)

WAITING, PARKED, IN_LANE, CLAIMED = "units", "park", "lane", "claim"
"""Places, in the order in which a message comes to them."""


class Holding(Struct, frozen=True):
    """One unit or Order and where it is."""

    place: str
    id: str
    groups: tuple[Group, ...]
    page: BlobRef | None = None
    """Where the messages of a chunk are."""
    until: float = 0.0
    """When it can be received or is swept, Unix seconds; 0 is now."""
    reason: str = ""
    lane: str = ""
    binding: str = ""
    owner: str = ""
    """Incarnation that claimed it."""

    def messages(self) -> Iterator[tuple[Transmission, Message]]:
        return ((group.transmission, message) for group in self.groups for message in group.messages)


def holdings(inspection: Inspection) -> list[Holding]:
    """All units and Orders that are not done, those that are furthest on their way last.

    While something is moved it is in two places; none is left out.
    """
    entries = list(inspection.entries())
    found = [holding for entry in entries if entry.queue == UNITS for holding in _units(entry)]
    found += [holding for row in inspection.rows("due") for holding in parked(row)]
    found += [holding for entry in entries if entry.queue in LANES for holding in _orders(entry, inspection)]
    return found


def _units(entry: QueueEntry) -> list[Holding]:
    opened = decode_unit_entry(entry.body)
    units = [*opened.units, *(chunk for manifest in opened.manifests for chunk in chunks(manifest))]
    place = PARKED if entry.state == DELAYED else WAITING
    return [_of_unit(unit, place, entry.until) for unit in units]


def parked(row: Row) -> list[Holding]:
    """The units of a row in a due-time bucket."""
    return [_of_unit(unit, PARKED, due_of(row.sort)) for unit in decode_unit_entry(row.body).units]


def due_of(sort: str) -> float:
    """When a row of a due-time bucket is swept, Unix seconds."""
    return int(sort.partition("/")[0]) * 60.0


def _of_unit(unit: Unit, place: str, until: float) -> Holding:
    return Holding(place, unit.id, unit.groups, unit.page, until)


def _orders(entry: QueueEntry, inspection: Inspection) -> Iterator[Holding]:
    for order in decode_order_entry(entry.body).orders:
        claim = _claim(inspection, order.id)
        if claim is None or claim.state == "released":
            yield Holding(IN_LANE, order.id, order.groups, lane=order.lane, binding=order.binding, until=entry.until)
        elif claim.state == "open":
            yield Holding(CLAIMED, order.id, order.groups, lane=order.lane, binding=order.binding, owner=claim.owner)


def _claim(inspection: Inspection, order: str) -> Claim | None:
    row = inspection.row(f"claim/{order}")
    return None if row is None else decode_claim(row.body)


async def with_reason(holding: Holding, state: StateTable) -> Holding:
    """Why the router parked it, from the plan of the unit that it was part of; unchanged where that is not known."""
    parent, _, j = holding.id.rpartition("~")
    row = await state.get(f"plan/{parent}", "") if holding.place == PARKED and parent else None
    if row is None:
        return holding
    return replace(holding, reason=decode_plan(row.body).parks[int(j)].reason)


async def with_page(holding: Holding, blobs: BlobStore) -> Holding:
    """With the messages of its chunk. A page that is gone belonged to a chunk that has been planned meanwhile."""
    if holding.page is None:
        return holding
    try:
        page = await blobs.get(holding.page.key, holding.page.offset, holding.page.length)
    except NotFound:
        return replace(holding, page=None)
    group = Group(holding.groups[0].transmission, decode_messages(page))
    return replace(holding, groups=(group,), page=None)


def pending(found: Iterable[Holding]) -> list[Pending]:
    """For the audit: of two places of a message the later one counts."""
    return [
        Pending(message_id(transmission.id, message.index), message.address, holding.place)
        for holding in found
        for transmission, message in holding.messages()
    ]


def whereabouts(holding: Holding, now: float) -> str:
    """Where it is, in words."""
    match holding.place:
        case "units":
            where = f"in the router's queue, unit {holding.id}"
        case "park":
            where = f"parked {_until(holding, now)}, unit {holding.id}"
        case "lane":
            where = f"waits in lane {holding.lane} for a worker, to go by {holding.binding}, Order {holding.id}"
        case _:
            owner = f"worker incarnation {holding.owner}"
            where = f"claimed in lane {holding.lane} by {owner}, going by {holding.binding}, Order {holding.id}"
    return f"{where}: {printable(holding.reason)}" if holding.reason else where


def _until(holding: Holding, now: float) -> str:
    left = holding.until - now
    return f"until {clock_time(holding.until, now)} (in {duration(left)})" if left > 0 else "and due"

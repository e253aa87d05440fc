"""From a unit and its stored plan to Orders, parks and events: pure, so that a repeat gives the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from postfleet.events import event_id, mail_event
from postfleet.park import Park
from postfleet.ports import Outgoing
from postfleet.stages import (
    BOUNCED,
    Event,
    Group,
    Message,
    Order,
    OrderEntry,
    Plan,
    PlannedEnd,
    Transmission,
    Unit,
    encode,
    order_id,
    park_id,
)
from router.plan import ORDER_MESSAGES, flatten

ENTRY_BYTES = 56 * 1024
"""Orders of one lane share an entry up to about this: SQS bills by 64 KB."""
DNS_FAILURE, TIMED_OUT = 21, 24
"""Bounce classes."""


def orders_of(unit: Unit, plan: Plan) -> list[Order]:
    messages = flatten(unit)
    return [
        Order(
            order_id(unit.id, cut), unit.tenant, each.pool, each.binding, each.lane, _groups(messages, each.positions)
        )
        for cut, each in enumerate(plan.orders)
    ]


def parks_of(unit: Unit, plan: Plan) -> list[Park]:
    messages = flatten(unit)
    return [
        Park(each.due, Unit(park_id(unit.id, j), unit.tenant, _groups(messages, each.positions), fresh=False))
        for j, each in enumerate(plan.parks)
    ]


def _groups(messages: Sequence[tuple[Transmission, Message]], positions: Iterable[int]) -> tuple[Group, ...]:
    groups: list[tuple[Transmission, list[Message]]] = []
    for position in positions:
        transmission, message = messages[position]
        if not groups or groups[-1][0] is not transmission:
            groups.append((transmission, []))
        groups[-1][1].append(message)
    return tuple(Group(transmission, tuple(members)) for transmission, members in groups)


def by_lane(orders: Iterable[Order]) -> dict[str, list[Order]]:
    lanes: dict[str, list[Order]] = {}
    for order in orders:
        lanes.setdefault(order.lane, []).append(order)
    return lanes


def entries_of(orders: Iterable[Order]) -> list[Outgoing]:
    """Entries for Orders of one lane, of whichever units; small ones of one tenant share an entry."""
    by_tenant: dict[int, list[_Entry]] = {}
    for order in orders:
        size = len(encode(order))
        count = sum(len(group.messages) for group in order.groups)
        entries = by_tenant.setdefault(order.tenant, [])
        if not entries or not entries[-1].takes(size, count):
            entries.append(_Entry())
        entries[-1].add(order, size, count)
    return [entry.outgoing() for entries in by_tenant.values() for entry in entries]


class _Entry:
    def __init__(self) -> None:
        self._orders: list[Order] = []
        self._size = 0
        self._count = 0

    def takes(self, size: int, count: int) -> bool:
        return self._size + size <= ENTRY_BYTES and self._count + count <= ORDER_MESSAGES

    def add(self, order: Order, size: int, count: int) -> None:
        self._orders.append(order)
        self._size += size
        self._count += count

    def outgoing(self) -> Outgoing:
        return Outgoing(encode(OrderEntry(tuple(self._orders))), group=str(self._orders[0].tenant))


def events_of(unit: Unit, plan: Plan) -> list[Event]:
    """An injection for each message of a fresh unit, and the ends that the plan decided."""
    messages = flatten(unit)
    events = [_injection(transmission, message) for transmission, message in messages] if unit.fresh else []
    events += [_end(unit, plan, end, *messages[end.position]) for end in plan.ends]
    return events


def _injection(transmission: Transmission, message: Message) -> Event:
    return mail_event(
        event_id(transmission.id, message.index, "injection"),
        "injection",
        transmission.accepted_at,
        transmission,
        message,
    )


def _end(unit: Unit, plan: Plan, end: PlannedEnd, transmission: Transmission, message: Message) -> Event:
    return mail_event(
        event_id(unit.id, end.position, end.kind),
        "bounce" if end.kind == BOUNCED else end.kind,
        plan.at,
        transmission,
        message,
        raw_reason=end.reason,
        error_code=int(end.reason[:3]) if end.reason[:3].isdigit() else 0,
        bounce_class=DNS_FAILURE if end.kind == BOUNCED else TIMED_OUT,
    )

"""From an Order and its journalled outcomes to parks and events. Pure: a successor computes the same."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec.structs import replace

from postfleet.events import event_id, mail_event
from postfleet.park import Park
from postfleet.stages import (
    BOUNCED,
    DEFERRED,
    DELIVERED,
    REBIND,
    Event,
    Group,
    Message,
    Order,
    Outcome,
    Transmission,
    Unit,
    park_id,
)

_EVENT_TYPES = {DELIVERED: "delivery", BOUNCED: "bounce", DEFERRED: "delay"}

Outcomes = Mapping[int, Outcome]


def flatten(order: Order) -> list[tuple[Transmission, Message]]:
    """Outcomes' `n` indexes this list."""
    return [(group.transmission, message) for group in order.groups for message in group.messages]


def parks_of(order: Order, outcomes: Outcomes) -> list[Park]:
    """One park for each due time, in order of time."""
    messages = flatten(order)
    by_due: dict[float, list[int]] = {}
    for n in sorted(outcomes):
        if outcomes[n].kind in (DEFERRED, REBIND):
            by_due.setdefault(outcomes[n].due, []).append(n)
    return [
        Park(due, Unit(park_id(order.id, j), order.tenant, _groups(order, messages, members, outcomes), fresh=False))
        for j, (due, members) in enumerate(sorted(by_due.items()))
    ]


def _groups(
    order: Order, messages: list[tuple[Transmission, Message]], members: list[int], outcomes: Outcomes
) -> tuple[Group, ...]:
    groups: list[tuple[Transmission, list[Message]]] = []
    for n in members:
        transmission, message = messages[n]
        if not groups or groups[-1][0] is not transmission:
            groups.append((transmission, []))
        groups[-1][1].append(_after(order, message, outcomes[n]))
    return tuple(Group(transmission, tuple(parked)) for transmission, parked in groups)


def _after(order: Order, message: Message, outcome: Outcome) -> Message:
    """The message as its next plan sees it."""
    attempts = message.attempts + (outcome.code != 0)
    if outcome.block:
        avoid = (*message.avoid, order.binding) if order.binding not in message.avoid else message.avoid
        return replace(message, attempts=attempts, binding="", avoid=avoid)
    if outcome.kind == REBIND:
        return replace(message, binding="")
    return replace(message, attempts=attempts, binding=order.binding)


def events_of(order: Order, outcomes: Outcomes) -> list[Event]:
    messages = flatten(order)
    return [_event(order, *messages[n], outcomes[n]) for n in sorted(outcomes)]


def _event(order: Order, transmission: Transmission, message: Message, outcome: Outcome) -> Event:
    return mail_event(
        event_id(order.id, outcome.n, outcome.kind),
        _EVENT_TYPES.get(outcome.kind, outcome.kind),
        outcome.at,
        transmission,
        message,
        binding=order.binding,
        sending_ip=outcome.source_ip,
        error_code=outcome.code,
        raw_reason=outcome.reply,
        routing=outcome.mx,
        bounce_class=outcome.bounce_class,
        due=outcome.due,
        order=order.id,
    )

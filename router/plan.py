"""A unit's plan: what is released now, what waits until when, what ends. Pure.

Randomness is not needed: which binding takes a run of messages follows from
the unit's id, so that load spreads by weight over units and a plan computed
twice from the same snapshot is the same.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from postfleet.directory import Binding, Pool, Suspension
from postfleet.dns.answers import NoDomain, NullMx, TempFail
from postfleet.dns.sites import Site, SiteAnswer
from postfleet.layout import message_size
from postfleet.settings import Settings
from postfleet.stages import (
    BOUNCED,
    EXPIRED,
    Message,
    Plan,
    PlannedEnd,
    PlannedOrder,
    PlannedPark,
    Transmission,
    Unit,
)

ORDER_MESSAGES = 50
ORDER_BYTES = 192 * 1024
"""Bounds of an Order and of a park: rows hold 400 KB."""
LONGEST_WAIT = 300.0
"""Longest time between two looks for a way out, seconds."""
DEFAULT_POOL = "default"


Destinations = Mapping[str, SiteAnswer]
"""By domain, lower case."""


class Snapshot(Struct, frozen=True):
    """What the router knows of its way out, about a second old."""

    pools: Mapping[str, Pool]
    bindings: Mapping[str, Binding]
    suspensions: Mapping[str, Suspension]

    def open_bindings(self, pool: str, limit_key: str, now: float) -> dict[str, int]:
        """Weights of the pool's bindings that may send there now."""
        weights = (self.pools.get(pool) or self.pools.get(DEFAULT_POOL) or Pool(pool, {})).weights
        return {
            name: weight
            for name, weight in weights.items()
            if weight > 0 and self.alive(name) and self.suspended_until(name, limit_key, now) is None
        }

    def alive(self, name: str) -> bool:
        binding = self.bindings.get(name)
        return binding is not None and binding.alive

    def suspended_until(self, name: str, limit_key: str, now: float) -> Suspension | None:
        suspension = self.suspensions.get(f"{name}|{limit_key}")
        return suspension if suspension is not None and suspension.until > now else None

    def first_resumed(self, pool: str, limit_key: str, now: float) -> Suspension | None:
        """Of the pool's live but suspended bindings, the one that opens first."""
        weights = (self.pools.get(pool) or self.pools.get(DEFAULT_POOL) or Pool(pool, {})).weights
        found = (self.suspended_until(name, limit_key, now) for name in weights if self.alive(name))
        return min((each for each in found if each is not None), key=lambda each: each.until, default=None)


class _Run(Struct, frozen=True):
    """Messages that go the same way."""

    pool: str
    binding: str
    lane: str


def flatten(unit: Unit) -> list[tuple[Transmission, Message]]:
    """Positions of a plan index this list."""
    return [(group.transmission, message) for group in unit.groups for message in group.messages]


def domain_of(address: str) -> str:
    return address[address.rfind("@") + 1 :].lower()


def plan_unit(unit: Unit, destinations: Destinations, snapshot: Snapshot, settings: Settings, now: float) -> Plan:
    """`destinations` has every domain of the unit."""
    runs: dict[_Run, list[int]] = {}
    waits: dict[tuple[float, str], list[int]] = {}
    ends: list[PlannedEnd] = []
    messages = flatten(unit)
    for position, (transmission, message) in enumerate(messages):
        decision = _decide(unit, transmission, message, destinations, snapshot, settings, now)
        match decision:
            case _Run():
                runs.setdefault(decision, []).append(position)
            case PlannedPark():
                waits.setdefault((decision.due, decision.reason), []).append(position)
            case PlannedEnd():
                ends.append(PlannedEnd(position, decision.kind, decision.reason))
    return Plan(
        at=now,
        orders=tuple(
            PlannedOrder(run.pool, run.binding, run.lane, part)
            for run, positions in runs.items()
            for part in _parts(messages, positions, ORDER_MESSAGES)
        ),
        parks=tuple(
            PlannedPark(due, reason, part)
            for (due, reason), positions in waits.items()
            for part in _parts(messages, positions, len(messages))
        ),
        ends=tuple(ends),
    )


def _decide(
    unit: Unit,
    transmission: Transmission,
    message: Message,
    destinations: Destinations,
    snapshot: Snapshot,
    settings: Settings,
    now: float,
) -> _Run | PlannedPark | PlannedEnd:
    if now >= transmission.expires_at:
        return PlannedEnd(-1, EXPIRED, "554 5.4.7 message expired before it could be delivered")
    domain = domain_of(message.address)
    match destinations[domain]:
        case NullMx():
            return PlannedEnd(-1, BOUNCED, f"556 5.1.10 {domain} takes no mail (null MX)")
        case NoDomain() as answer:
            return PlannedEnd(-1, BOUNCED, f"550 5.1.2 {domain}: {answer.reason}")
        case TempFail() as answer:
            return _wait(transmission, f"451 4.4.3 {domain}: {answer.reason}", settings.retry_first, now)
        case site:
            return _way_out(unit, transmission, message, site, snapshot, settings, now)


def _way_out(
    unit: Unit,
    transmission: Transmission,
    message: Message,
    site: Site,
    snapshot: Snapshot,
    settings: Settings,
    now: float,
) -> _Run | PlannedPark:
    weights = snapshot.open_bindings(transmission.pool, site.limit_key, now)
    if not weights:
        return _no_way_out(transmission, site, snapshot, settings, now)
    return _Run(transmission.pool, _choose(unit, message, weights, site.lane), site.lane)


def _no_way_out(
    transmission: Transmission, site: Site, snapshot: Snapshot, settings: Settings, now: float
) -> PlannedPark:
    resumed = snapshot.first_resumed(transmission.pool, site.limit_key, now)
    if resumed is None:
        return _wait(transmission, f"no live binding in pool {transmission.pool}", settings.rebind_delay, now)
    reason = f"{resumed.binding} suspended for {resumed.limit_key}: {resumed.reason}"
    return PlannedPark(min(resumed.until, transmission.expires_at), reason, ())


def _wait(transmission: Transmission, reason: str, first: float, now: float) -> PlannedPark:
    """Longer the older the message is, so that what cannot go is not looked at all the time."""
    age = now - transmission.accepted_at
    due = now + min(max(first, age / 4), max(first, LONGEST_WAIT))
    return PlannedPark(min(round(due), transmission.expires_at), reason, ())


def _choose(unit: Unit, message: Message, weights: Mapping[str, int], lane: str) -> str:
    """A retry keeps its binding (greylisting keys on it); what blocked the message before is avoided if possible."""
    if message.binding in weights:
        return message.binding
    open_to_it = {name: weight for name, weight in weights.items() if name not in message.avoid} or weights
    ticket = zlib.crc32(f"{unit.id}|{lane}".encode()) % sum(open_to_it.values())
    for name, weight in open_to_it.items():
        ticket -= weight
        if ticket < 0:
            return name
    raise AssertionError("weights are positive")


def _parts(
    messages: Sequence[tuple[Transmission, Message]], positions: Iterable[int], most: int
) -> list[tuple[int, ...]]:
    parts: list[tuple[int, ...]] = []
    part: list[int] = []
    size = 0
    for position in positions:
        weight = message_size(messages[position][1])
        if part and (len(part) >= most or size + weight > ORDER_BYTES):
            parts.append(tuple(part))
            part, size = [], 0
        part.append(position)
        size += weight
    parts.append(tuple(part))
    return parts

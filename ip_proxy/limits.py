"""How many connections each (source, limit key) has open, and who is next. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

FORGET_AFTER = 3600.0
"""Seconds after which an unused key's policy is forgotten; far longer than tokens live."""
_SHORTEST_WAIT, _LONGEST_WAIT = 0.1, 60.0
_SMOOTHING = 0.2

Key = tuple[str, str]
"""(source, limit key)"""


class Place(Enum):
    WAITING = auto()
    OPEN = auto()
    GONE = auto()


@dataclass(eq=False, slots=True)
class Ticket:
    """One connection that wants in, is in, or has left."""

    key: Key
    limit: int
    policy_version: int
    place: Place = Place.WAITING
    since: float = 0.0
    """When it came to its place, seconds of the caller's monotonic clock."""


@dataclass(slots=True)
class _Line:
    limit: int = 0
    policy_version: int = -1
    open: int = 0
    waiting: dict[Ticket, None] = field(default_factory=dict)
    hold_time: float = 1.0
    used_at: float = 0.0


class Limiter:
    """First come, first served, per key. The newest policy version seen says how many may be open."""

    def __init__(self) -> None:
        self._lines: dict[Key, _Line] = {}
        self._forget_at = 0.0

    def join(self, ticket: Ticket, now: float) -> list[Ticket]:
        """The tickets that are open from now on, maybe this one among them; else it waits."""
        self._forget(now)
        line = self._lines.setdefault(ticket.key, _Line())
        if ticket.policy_version > line.policy_version:
            line.limit, line.policy_version = ticket.limit, ticket.policy_version
        ticket.since = now
        line.waiting[ticket] = None
        return _admit(line, now)

    def leave(self, ticket: Ticket, now: float) -> list[Ticket]:
        """The tickets that are open because this one left, its connection closed or its patience over."""
        if ticket.place is Place.GONE:
            return []
        line = self._lines[ticket.key]
        if ticket.place is Place.OPEN:
            line.open -= 1
            line.hold_time += _SMOOTHING * (now - ticket.since - line.hold_time)
        line.waiting.pop(ticket, None)
        ticket.place = Place.GONE
        return _admit(line, now)

    def suggested_wait(self, key: Key) -> float:
        """Seconds until a newcomer can expect a place, by how long connections have been held."""
        line = self._lines.get(key, _Line())
        expected = line.hold_time * (len(line.waiting) + 1) / max(line.limit, 1)
        return min(max(expected, _SHORTEST_WAIT), _LONGEST_WAIT)

    def _forget(self, now: float) -> None:
        if now < self._forget_at:
            return
        self._forget_at = now + FORGET_AFTER
        for key, line in list(self._lines.items()):
            if not line.open and not line.waiting and now - line.used_at >= FORGET_AFTER:
                del self._lines[key]


def _admit(line: _Line, now: float) -> list[Ticket]:
    line.used_at = now
    admitted = []
    while line.waiting and line.open < line.limit:
        ticket = next(iter(line.waiting))
        del line.waiting[ticket]
        ticket.place, ticket.since = Place.OPEN, now
        line.open += 1
        admitted.append(ticket)
    return admitted

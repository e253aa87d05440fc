"""How many connections each (source, limit key) has open, how fast new ones may begin, and who is next. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto

from msgspec import Struct

FORGET_AFTER = 3600.0
"""Seconds after which an unused key's policy is forgotten; far longer than tokens live."""
_SHORTEST_WAIT, _LONGEST_WAIT = 0.1, 60.0
_SMOOTHING = 0.2
_MINUTE = 60.0
_AT_ONCE = 10
"""One of so many of a minute's connections may begin at the same time."""

Key = tuple[str, str]
"""(source, limit key)"""


class Policy(Struct, frozen=True):
    """The limits of one key. Of several, the one with the highest version counts."""

    version: int
    connections: int
    """Open at a time, at most."""
    per_minute: int = 0
    """Begun within any minute, at most; 0 sets no limit."""

    @property
    def burst(self) -> int:
        return max(1, self.per_minute // _AT_ONCE)

    @property
    def interval(self) -> float:
        """Seconds between two beginnings in the long run, such that a burst and a minute's worth keep the limit."""
        return _MINUTE / (self.per_minute - self.burst + 1) if self.per_minute else 0.0


class Place(Enum):
    WAITING = auto()
    OPEN = auto()
    GONE = auto()


@dataclass(eq=False, slots=True)
class Ticket:
    """One connection that wants in, is in, or has left."""

    key: Key
    policy: Policy
    place: Place = Place.WAITING
    since: float = 0.0
    """When it came to its place, seconds of the caller's monotonic clock."""


class LineState(Struct, frozen=True):
    """What is known of a key besides its tickets, for another limiter to go on with."""

    key: Key
    policy: Policy
    paced_until: float
    hold_time: float


_NO_POLICY = Policy(-1, 0)


@dataclass(slots=True)
class _Line:
    policy: Policy = _NO_POLICY
    open: int = 0
    waiting: dict[Ticket, None] = field(default_factory=dict)
    paced_until: float = 0.0
    """When the beginnings so far would have ended, had they come one interval after the other."""
    hold_time: float = 1.0
    used_at: float = 0.0

    @property
    def may_begin_at(self) -> float:
        """When the rate lets the next one begin."""
        return self.paced_until - (self.policy.burst - 1) * self.policy.interval if self.policy.per_minute else 0.0

    @property
    def has_room(self) -> bool:
        return self.open < self.policy.connections


class Limiter:
    """First come, first served, per key. The newest policy version seen says how many may be open, and how fast."""

    def __init__(self) -> None:
        self._lines: dict[Key, _Line] = {}
        self._forget_at = 0.0

    def join(self, ticket: Ticket, now: float) -> list[Ticket]:
        """The tickets that are open from now on, maybe this one among them; else it waits."""
        self._forget(now)
        line = self._lines.setdefault(ticket.key, _Line())
        if ticket.policy.version > line.policy.version:
            line.policy = ticket.policy
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

    def advance(self, key: Key, now: float) -> list[Ticket]:
        """The tickets that are open because time has passed."""
        line = self._lines.get(key)
        return _admit(line, now) if line is not None else []

    def next_at(self, key: Key) -> float | None:
        """When time alone lets the first in line begin; None where nobody waits, or for a place to come free."""
        line = self._lines.get(key)
        return line.may_begin_at if line is not None and line.waiting and line.has_room else None

    def suggested_wait(self, key: Key, now: float) -> float:
        """Seconds until a newcomer can expect a place, by the rate and by how long connections have been held."""
        line = self._lines.get(key, _Line())
        ahead = len(line.waiting)
        wait = line.may_begin_at - now + ahead * line.policy.interval
        if not (line.policy.per_minute and line.has_room):
            wait = max(wait, line.hold_time * (ahead + 1) / max(line.policy.connections, 1))
        return min(max(wait, _SHORTEST_WAIT), _LONGEST_WAIT)

    # ------------------------------------------------------------ from one limiter to another

    def lines(self) -> list[LineState]:
        return [
            LineState(key, line.policy, line.paced_until, line.hold_time)
            for key, line in self._lines.items()
            if line.policy.version >= 0
        ]

    def adopt(self, state: LineState, now: float) -> None:
        self._lines[state.key] = _Line(
            policy=state.policy, paced_until=state.paced_until, hold_time=state.hold_time, used_at=now
        )

    def adopt_open(self, ticket: Ticket) -> None:
        """Count a ticket that has its place already."""
        self._lines[ticket.key].open += 1

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
    while line.waiting and line.has_room and now >= line.may_begin_at:
        ticket = next(iter(line.waiting))
        del line.waiting[ticket]
        ticket.place, ticket.since = Place.OPEN, now
        line.open += 1
        line.paced_until = max(line.paced_until, now) + line.policy.interval
        admitted.append(ticket)
    return admitted

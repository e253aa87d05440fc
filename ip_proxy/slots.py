"""Waiting for a place under the limits, here or at the process that took over."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from ip_proxy.limits import Key, Limiter, LineState, Place, Policy, Ticket
from postfleet.socks.token import Claims


class AtLimit(Exception):
    """No place came free in time."""

    def __init__(self, suggested_wait: float) -> None:
        super().__init__(suggested_wait)
        self.suggested_wait = suggested_wait


class Successor(Protocol):
    """Whoever counts instead. It has `Slots.opened` called for those that waited."""

    def begin(self, lines: Sequence[LineState], tickets: Sequence[Ticket]) -> None:
        """What is known, and what is open."""
        ...

    def enter(self, ticket: Ticket) -> None: ...

    def leave(self, ticket: Ticket) -> None: ...


class Slots:
    def __init__(self, mono: Callable[[], float], patience: float) -> None:
        self._mono = mono
        self._patience = patience
        self._limiter = Limiter()
        self._tickets: dict[Ticket, Callable[[], None]] = {}
        """All that wait or are open, in their order, and what to call once they are open."""
        self._alarms: dict[Key, asyncio.TimerHandle] = {}
        self._successor: Successor | None = None

    async def take(self, claims: Claims) -> Ticket:
        """Raises `AtLimit` when no place came free within the patience."""
        policy = Policy(claims.policy_version, claims.max_connections, claims.connections_per_minute)
        ticket = Ticket((claims.source, claims.limit_key), policy)
        admitted = asyncio.Event()
        self.enter(ticket, admitted.set)
        try:
            async with asyncio.timeout(self._patience):
                await admitted.wait()
        except TimeoutError:
            if ticket.place is not Place.OPEN:
                self.give_back(ticket)
                raise AtLimit(self._limiter.suggested_wait(ticket.key, self._mono())) from None
        return ticket

    def enter(self, ticket: Ticket, on_open: Callable[[], None]) -> None:
        self._tickets[ticket] = on_open
        if self._successor is not None:
            self._successor.enter(ticket)
        else:
            self._wake(ticket.key, self._limiter.join(ticket, self._mono()))

    def give_back(self, ticket: Ticket) -> None:
        """Its connection is closed, or its patience over."""
        if self._tickets.pop(ticket, None) is None:
            return
        if self._successor is not None:
            ticket.place = Place.GONE
            self._successor.leave(ticket)
        else:
            self._wake(ticket.key, self._limiter.leave(ticket, self._mono()))

    # ------------------------------------------------------------ from process to process

    def adopt(self, lines: Iterable[LineState], tickets: Iterable[Ticket]) -> None:
        """Go on from what another process has counted. `tickets` are open; they are given back here."""
        for line in lines:
            self._limiter.adopt(line, self._mono())
        for ticket in tickets:
            self._tickets[ticket] = _nobody_waits
            self._limiter.adopt_open(ticket)

    def hand_over(self, successor: Successor) -> None:
        """From now on another counts. Those that wait here join its lines, in their order."""
        for alarm in self._alarms.values():
            alarm.cancel()
        self._alarms.clear()
        self._successor = successor
        successor.begin(self._limiter.lines(), self._in_place(Place.OPEN))
        for ticket in self._in_place(Place.WAITING):
            successor.enter(ticket)

    def opened(self, ticket: Ticket) -> None:
        """The successor has a place for it."""
        if ticket.place is Place.WAITING:
            ticket.place, ticket.since = Place.OPEN, self._mono()
            self._tickets[ticket]()

    def resume(self) -> None:
        """The successor is gone, and what it had open with it: count here again."""
        lines, self._limiter, self._successor = self._limiter.lines(), Limiter(), None
        for line in lines:
            self._limiter.adopt(line, self._mono())
        for ticket in self._in_place(Place.OPEN):
            self._limiter.adopt_open(ticket)
        for ticket in self._in_place(Place.WAITING):
            self._wake(ticket.key, self._limiter.join(ticket, self._mono()))

    def _in_place(self, place: Place) -> list[Ticket]:
        return [ticket for ticket in self._tickets if ticket.place is place]

    # ------------------------------------------------------------ time

    def _wake(self, key: Key, admitted: list[Ticket]) -> None:
        for ticket in admitted:
            self._tickets[ticket]()
        turn = self._limiter.next_at(key)
        if turn is not None and key not in self._alarms:
            delay = max(turn - self._mono(), 0.0)
            self._alarms[key] = asyncio.get_running_loop().call_later(delay, self._look_again, key)

    def _look_again(self, key: Key) -> None:
        del self._alarms[key]
        self._wake(key, self._limiter.advance(key, self._mono()))


def _nobody_waits() -> None:
    """For a ticket that is open already."""

"""Waiting for a place under the limits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from ip_proxy.limits import Limiter, Place, Ticket
from postfleet.socks.token import Claims


class AtLimit(Exception):
    """No place came free in time."""

    def __init__(self, suggested_wait: float) -> None:
        super().__init__(suggested_wait)
        self.suggested_wait = suggested_wait


class Slots:
    def __init__(self, mono: Callable[[], float], patience: float) -> None:
        self._mono = mono
        self._patience = patience
        self._limiter = Limiter()
        self._waiting: dict[Ticket, asyncio.Event] = {}

    async def take(self, claims: Claims) -> Ticket:
        """Raises `AtLimit` when no place came free within the patience."""
        ticket = Ticket((claims.source, claims.limit_key), claims.max_connections, claims.policy_version)
        admitted = self._waiting[ticket] = asyncio.Event()
        try:
            self._wake(self._limiter.join(ticket, self._mono()))
            async with asyncio.timeout(self._patience):
                await admitted.wait()
        except TimeoutError:
            if ticket.place is not Place.OPEN:
                self.give_back(ticket)
                raise AtLimit(self._limiter.suggested_wait(ticket.key)) from None
        finally:
            del self._waiting[ticket]
        return ticket

    def give_back(self, ticket: Ticket) -> None:
        self._wake(self._limiter.leave(ticket, self._mono()))

    def _wake(self, admitted: list[Ticket]) -> None:
        for ticket in admitted:
            self._waiting[ticket].set()

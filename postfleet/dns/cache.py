"""A bounded cache of answers that last for a time, each fetched once however many ask."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, NamedTuple, TypeVar

from postfleet.clock import Clock

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Lasting(NamedTuple, Generic[V]):
    """`expires` is on the monotonic clock."""

    value: V
    expires: float


class AnswerCache(Generic[K, V]):
    """Forgets the least recently used beyond `size`. What `fetch` raises reaches all who wait, and is not kept."""

    def __init__(self, fetch: Callable[[K], Awaitable[Lasting[V]]], clock: Clock, size: int) -> None:
        self._fetch = fetch
        self._clock = clock
        self._size = size
        self._kept: OrderedDict[K, Lasting[V]] = OrderedDict()
        self._flights: dict[K, asyncio.Task[Lasting[V]]] = {}

    def fresh(self, key: K) -> Lasting[V] | None:
        kept = self._kept.get(key)
        if kept is None or kept.expires <= self._clock.mono():
            return None
        self._kept.move_to_end(key)
        return kept

    async def get(self, key: K) -> Lasting[V]:
        kept = self.fresh(key)
        if kept is not None:
            return kept
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = asyncio.ensure_future(self._fly(key))
        # Whoever waits may be cancelled; the others still want the answer.
        return await asyncio.shield(flight)

    async def _fly(self, key: K) -> Lasting[V]:
        try:
            kept = self._kept[key] = await self._fetch(key)
        finally:
            del self._flights[key]
        self._kept.move_to_end(key)
        if len(self._kept) > self._size:
            self._kept.popitem(last=False)
        return kept

"""The fleet controller: probes the proxies and writes who owns which IP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec
import structlog

from control.ownership import Ownership, Report
from postfleet.clock import Clock
from postfleet.deployment import ProxySite
from postfleet.directory import BINDINGS, Binding, announce, load_all
from postfleet.ports import StateTable

log = structlog.get_logger()

Probe = Callable[[str], Awaitable[Report | str]]
"""Asks the proxy whose health address is given."""
Refuse = Callable[[Binding], Awaitable[str]]
"""Why a binding may not send; empty when it may."""


async def refuse_none(_binding: Binding) -> str:
    return ""


class FleetController:
    """Binding rows are read anew each round, and written only when something changed."""

    def __init__(
        self,
        state: StateTable,
        proxies: Sequence[ProxySite],
        probe: Probe,
        clock: Clock,
        refuse: Refuse = refuse_none,
    ) -> None:
        self._state = state
        self._proxies = proxies
        self._probe = probe
        self._clock = clock
        self._refuse = refuse
        self._refusals: dict[str, str] = {}
        """By the binding's name."""
        self._ownership = Ownership(proxies)
        self._strangers: set[str] = set()

    async def round(self) -> None:
        """Probe all proxies at once, then write the bindings that changed. Raises `StorageError`."""
        results = await asyncio.gather(*(self._probe(proxy.health) for proxy in self._proxies))
        for proxy, result in zip(self._proxies, results, strict=True):
            self._ownership.record(proxy, result)
        bindings = await load_all(self._state, BINDINGS, Binding)
        refusals = await asyncio.gather(*map(self._refuse, bindings.values()))
        self._refusals = dict(zip(bindings, refusals, strict=True))
        for name, binding in bindings.items():
            if self._decide(binding) is not binding:
                await self._change(name)
        self._note_strangers(self._ownership.listed() - {binding.ip for binding in bindings.values()})

    def _decide(self, binding: Binding) -> Binding:
        return self._ownership.decide(binding, self._clock.now(), self._refusals.get(binding.name, ""))

    async def _change(self, name: str) -> None:
        """A row that somebody else writes meanwhile is left for the next round."""
        row = await self._state.get(BINDINGS, name)
        if row is None:
            return
        binding = msgspec.json.decode(row.body, type=Binding)
        decided = self._decide(binding)
        if decided is not binding and (await self._state.put_if(row, msgspec.json.encode(decided))).ok:
            await announce(self._state)
            event = "binding_alive" if decided.alive else "binding_dead"
            log.info(
                event, binding=name, ip=decided.ip, proxy=decided.proxy, before=binding.proxy, reason=decided.reason
            )

    def _note_strangers(self, ips: set[str]) -> None:
        """Once per IP: without a binding it has no EHLO name and sends nothing."""
        for ip in sorted(ips - self._strangers):
            log.warning("source_without_binding", ip=ip)
        self._strangers = ips

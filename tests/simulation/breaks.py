"""The protocol's rules, each of which can be taken out of the real code: a simulation must then catch it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any
from unittest.mock import patch

import msgspec
from msgspec.structs import replace

from mta_worker.order import OrderRun, OrderRunner
from mta_worker.report import events_of
from postfleet.accept import Acceptor, IdempotencyRow
from postfleet.claim import Claimed, Claims, Finished, Held, merged
from postfleet.journal import RETRY, Journal, JournalRow, read_journal
from postfleet.lease import LEASES, LeaseKeeper
from postfleet.park import SHARDS, merge, parked
from postfleet.ports import StateTable, StorageError, WorkQueue
from postfleet.stages import REBIND, Order, Outcome, Plan, Submission, Unit, decode_claim, encode
from router.plan import Snapshot, domain_of, flatten, plan_unit
from router.service import Router

# ---------------------------------------------------------------- accept, plan, park


async def _key_before_entry(
    self: Acceptor, tenant: int, key: str, body_digest: str, build: Callable[[str], Submission]
) -> tuple[str, bool]:
    """The key says `done` before the entry is sent."""
    row = await self._pending(tenant, key, body_digest)
    record = msgspec.json.decode(row.body, type=IdempotencyRow)
    if record.done:
        return record.id, True
    await self._state.put_if(row, encode(replace(record, done=True)), row.expires)
    await self._store_keyed(build(record.id))
    return record.id, False


async def _recut(self: Router, unit: Unit) -> Plan:
    """Every copy of a unit is planned anew."""
    destinations = await self._destinations({domain_of(message.address) for _, message in flatten(unit)})
    snapshot = Snapshot(self._directory.pools, self._directory.bindings, self._directory.suspensions)
    return plan_unit(unit, destinations, snapshot, self._settings, self._clock.now())


async def _sweep_deletes_first(*, units: WorkQueue, state: StateTable, now: float) -> int:
    for shard in range(SHARDS):
        rows = await state.query(f"due/{shard}", end=f"{int(now // 60) + 1:010d}")
        for row in rows:
            await state.delete_if(row)
        if rows:
            await units.send(merge(parked(rows)))
    return 0


def _ack_when_any_is_done(delays: Sequence[float | None]) -> float | None:
    return None if None in delays else min(delay for delay in delays if delay is not None)


# ---------------------------------------------------------------- claim, take over


async def _take_done_orders(self: Claims, order: str) -> Claimed | Held | Finished:
    """A `done` row is claimed like a released one."""
    taken = await _real_take(self, order)
    row = await self._state.get(f"claim/{order}", "")
    if taken is not Finished.FINISHED or row is None:
        return taken
    claim = decode_claim(row.body)
    return await self._reopen(order, row, claim, claim.outcomes)


_real_take = Claims.take


def _forget_the_row(
    known: tuple[Outcome, ...], journalled: list[tuple[str, Outcome]], order: str
) -> tuple[Outcome, ...]:
    """Of a chain of owners only the last one's journal counts."""
    return merged((), journalled, order)


async def _read_without_sealing(
    state: StateTable, incarnation: str, start: int, sealer: str, expires: float
) -> list[tuple[str, Outcome]]:
    outcomes, _, _ = await read_journal(state, incarnation, start)
    return outcomes


async def _bury_by_wall_clock(self: LeaseKeeper, owner: str) -> bool:
    """A lease is dead when the row's time, plus the lease time, is over on my wall clock."""
    row = await self._state.get(LEASES, owner)
    if row is not None and row.expires is not None:
        age = self._expiry() - row.expires
        self._watched[owner] = (row.version, self._clock.mono() - age)
    return await _real_bury(self, owner)


_real_bury = LeaseKeeper.bury


def _always_good(self: LeaseKeeper) -> bool:
    return True


# ---------------------------------------------------------------- deliver, finish


async def _run_duplicates(self: OrderRunner, order: Order) -> float | None:
    return await self._run(order)


async def _done_before_park(self: OrderRunner, order: Order, claimed: Claimed) -> None:
    await self._events.write(events_of(order, claimed.outcomes))
    await self._claims.finish(claimed)
    await self._park(order, claimed)


async def _park_together(self: OrderRunner, order: Order, claimed: Claimed) -> None:
    """A successor parks what is left of an Order in one go."""
    if claimed.claim.takeovers:
        due = max((outcome.due for outcome in claimed.outcomes.values()), default=0.0)
        together = {n: replace(outcome, due=due) for n, outcome in claimed.outcomes.items()}
        claimed = Claimed(order.id, claimed.row, replace(claimed.claim, outcomes=tuple(together.values())))
    await _real_park(self, order, claimed)


_real_park = OrderRunner._park


def _settle_rebinds_in_memory(self: OrderRun, outcome: Outcome) -> asyncio.Future[None]:
    if outcome.kind != REBIND:
        return _real_settle(self, outcome)
    self.outcomes[outcome.n] = outcome
    durable: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    durable.add_done_callback(self._one_less)
    durable.set_result(None)
    return durable


_real_settle = OrderRun.settle


async def _write_what_came_meanwhile(self: Journal, batch: Any) -> None:
    """A repeated write takes newer outcomes along, and a row with my nonce in its place is success."""
    batches, mine = [batch], f"{self._incarnation}.{self.sequence}"
    place = (f"journal/{self._incarnation}", f"{self.sequence:012d}")
    while True:
        outcomes = tuple(outcome for each in batches for outcome in each.outcomes)
        try:
            written = await self._state.put_if_absent(*place, msgspec.json.encode(JournalRow(mine, outcomes)))
            break
        except StorageError:
            await asyncio.sleep(RETRY)
            batches += self._batches
            self._batches.clear()
    if written.row is None or msgspec.json.decode(written.row.body, type=JournalRow).nonce != mine:
        self._fenced = True
        self._on_fenced("the journal is sealed")
        return
    self.sequence += 1
    for each in batches:
        each.durable.set_result(None)


BREAKS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "recut": partial(patch.object, Router, "_plan", _recut),
    "ack-before-park": partial(patch.object, OrderRunner, "_finish", _done_before_park),
    "chain-takeover": partial(patch, "postfleet.claim.merged", _forget_the_row),
    "unsealed-journal": partial(patch, "postfleet.claim.seal_journal", _read_without_sealing),
    "same-worker-dup": partial(patch.object, OrderRunner, "handle", _run_duplicates),
    "late-dup": partial(patch.object, Claims, "take", _take_done_orders),
    "merge-dup": partial(patch.object, OrderRunner, "_park", _park_together),
    "key-before-entry": partial(patch.object, Acceptor, "accept_keyed", _key_before_entry),
    "rebind-unjournalled": partial(patch.object, OrderRun, "settle", _settle_rebinds_in_memory),
    "early-ack": partial(patch, "postfleet.consume.entry_delay", _ack_when_any_is_done),
    "sweep-loss": partial(patch, "router.service.sweep", _sweep_deletes_first),
    "journal-rewrite": partial(patch.object, Journal, "_write_row", _write_what_came_meanwhile),
    "lease-gate": partial(patch.object, LeaseKeeper, "good", _always_good),
    "clock-steal": partial(patch.object, LeaseKeeper, "bury", _bury_by_wall_clock),
}
"""Rules that can be taken out, by name; each value makes a context manager that takes its rule out."""

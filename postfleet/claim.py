"""Steps 3, 5 and 6 of the protocol: claim an Order, finish it, take over a dead owner's.

One row per Order. Whoever writes it puts a fresh nonce in; a conflict that
shows my nonce is my own success whose reply was lost.
"""

from __future__ import annotations

import random
from enum import Enum

import structlog
from msgspec.structs import replace

from postfleet.clock import Clock
from postfleet.ids import nonce
from postfleet.journal import Journal, read_journal, seal_journal
from postfleet.lease import LeaseKeeper
from postfleet.ports import Row, StateTable
from postfleet.settings import Settings
from postfleet.stages import Claim, Outcome, decode_claim, encode

log = structlog.get_logger()

ALONE_FROM = 2
"""From this many takeovers an Order runs alone and marks which message it tries."""
DEATHS = 3
"""A message that was the marked one at this many deaths is `failed`."""


class Held:
    """The Order is somebody's, or may be: hand the entry back for `delay` seconds."""

    def __init__(self, delay: float, reason: str) -> None:
        self.delay = delay
        self.reason = reason


class Finished(Enum):
    """The Order is done: ack and drop."""

    FINISHED = "finished"


class Claimed:
    """An Order that is mine, and what is known of it."""

    def __init__(self, order: str, row: Row, claim: Claim) -> None:
        self.order = order
        self.row = row
        self.claim = claim
        self.outcomes = {outcome.n: outcome for outcome in claim.outcomes}

    @property
    def runs_alone(self) -> bool:
        return self.claim.takeovers >= ALONE_FROM

    def poisonous(self) -> list[int]:
        """Messages that killed too many workers."""
        return [n for n, deaths in sorted(self.claim.deaths.items()) if deaths >= DEATHS and n not in self.outcomes]


class LostClaim(Exception):
    """The row is another's now."""


class Claims:
    def __init__(
        self,
        state: StateTable,
        leases: LeaseKeeper,
        journal: Journal,
        *,
        clock: Clock,
        settings: Settings,
        rng: random.Random,
    ) -> None:
        self._state = state
        self._leases = leases
        self._journal = journal
        self._me = leases.incarnation
        self._clock = clock
        self._settings = settings
        self._rng = rng

    async def take(self, order: str) -> Claimed | Held | Finished:
        """Claim `order` for this incarnation, of which no other task works on it."""
        mine = self._open()
        written = await self._state.put_if_absent(_partition(order), "", encode(mine), self._expiry())
        if written.ok and written.row is not None:
            return Claimed(order, written.row, mine)
        if written.row is None:
            return Held(self._settings.lease_renew, "the claim row vanished")
        claim = decode_claim(written.row.body)
        if claim.nonce == mine.nonce:
            return Claimed(order, written.row, claim)
        if claim.state == "done":
            return Finished.FINISHED
        if claim.state == "released":
            return await self._reopen(order, written.row, claim, claim.outcomes)
        if claim.owner == self._me:
            return await self._adopt(order, written.row, claim)
        return await self._take_over(order, written.row, claim)

    async def _adopt(self, order: str, row: Row, claim: Claim) -> Claimed | Held:
        """My own open claim without a task: its write was reported failed but landed, or the task died."""
        await self._journal.flush()
        known, _, _ = await read_journal(self._state, self._me, claim.start)
        return await self._reopen(order, row, claim, merged(claim.outcomes, known, order))

    async def _take_over(self, order: str, row: Row, claim: Claim) -> Claimed | Held:
        if not await self._leases.bury(claim.owner):
            return Held(self._settings.lease_renew, "its owner may be alive")
        known = await seal_journal(self._state, claim.owner, claim.start, self._me, self._expiry())
        deaths = dict(claim.deaths)
        if claim.mark >= 0:
            deaths[claim.mark] = deaths.get(claim.mark, 0) + 1
        heir = replace(claim, takeovers=claim.takeovers + 1, deaths=deaths)
        log.info("order_taken_over", order=order, owner=claim.owner, takeovers=heir.takeovers)
        return await self._reopen(order, row, heir, merged(claim.outcomes, known, order))

    async def _reopen(self, order: str, row: Row, claim: Claim, outcomes: tuple[Outcome, ...]) -> Claimed | Held:
        mine = replace(self._open(), takeovers=claim.takeovers, deaths=claim.deaths, outcomes=outcomes)
        written = await self._state.put_if(row, encode(mine), self._expiry())
        if written.row is not None and (written.ok or decode_claim(written.row.body).nonce == mine.nonce):
            return Claimed(order, written.row, mine)
        return Held(self._settings.lease_renew, "another took it first")

    def _open(self) -> Claim:
        return Claim("open", self._me, nonce(self._rng), self._journal.sequence)

    # ------------------------------------------------------------ what the owner writes

    async def mark(self, claimed: Claimed, n: int) -> None:
        """Say which message is tried next, so that a death is charged to it."""
        await self._rewrite(claimed, replace(claimed.claim, mark=n))

    async def finish(self, claimed: Claimed) -> None:
        await self._rewrite(claimed, replace(claimed.claim, state="done", outcomes=(), mark=-1))

    async def release(self, claimed: Claimed) -> None:
        """Hand the Order over, all sessions having ended: with every outcome known, journalled or not."""
        outcomes = tuple(claimed.outcomes[n] for n in sorted(claimed.outcomes))
        await self._rewrite(claimed, replace(claimed.claim, state="released", outcomes=outcomes, mark=-1))

    async def _rewrite(self, claimed: Claimed, claim: Claim) -> None:
        claim = replace(claim, nonce=nonce(self._rng))
        written = await self._state.put_if(claimed.row, encode(claim), self._expiry())
        if written.row is None or not (written.ok or decode_claim(written.row.body).nonce == claim.nonce):
            raise LostClaim(claimed.order)
        claimed.row, claimed.claim = written.row, claim

    def _expiry(self) -> float:
        return self._settings.ownership_expiry(self._clock.now())


def _partition(order: str) -> str:
    return f"claim/{order}"


def merged(known: tuple[Outcome, ...], journalled: list[tuple[str, Outcome]], order: str) -> tuple[Outcome, ...]:
    """Outcomes of one Order, the first of each message, in order of the messages."""
    outcomes = {outcome.n: outcome for outcome in known}
    for name, outcome in journalled:
        if name == order:
            outcomes.setdefault(outcome.n, outcome)
    return tuple(outcomes[n] for n in sorted(outcomes))

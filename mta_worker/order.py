"""One Order, top to bottom: claim, deliver, park, report, finish.

Every step after the last outcome can be repeated by a successor: it computes
the same parks and the same events from the same journalled outcomes.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import structlog

from mta_worker.contents import Content, Contents, build
from mta_worker.report import events_of, flatten, parks_of
from mta_worker.turns import Turns
from postfleet.claim import Claimed, Claims, Finished, Held, LostClaim
from postfleet.clock import Clock
from postfleet.events import EventWriter
from postfleet.journal import Journal
from postfleet.park import Parks
from postfleet.ports import Backends, NotFound
from postfleet.settings import Settings
from postfleet.stages import EXPIRED, FAILED, Message, Order, Outcome, Transmission, message_id

log = structlog.get_logger()

BATCH_BYTES = 8 * 1024 * 1024
"""Contents of an Order that are held at once."""


class Job:
    """One message on its way. Ends by `settle` or, untried, by `withdraw`; either exactly once."""

    __slots__ = ("data", "message", "n", "reconnects", "run", "transmission", "waiting_since")

    def __init__(self, run: OrderRun, n: int, transmission: Transmission, message: Message, data: bytes) -> None:
        self.run = run
        self.n = n
        self.transmission = transmission
        self.message = message
        self.data = data
        self.reconnects = 0
        self.waiting_since = 0.0

    def settle(self, outcome: Outcome) -> asyncio.Future[None]:
        """Journal what became of it; the future is done once that is durable."""
        return self.run.settle(outcome)

    def withdraw(self) -> None:
        """Nothing was tried: this worker stops."""
        self.run.leave(self)


class OrderRun:
    """The messages of one claimed Order that are being delivered."""

    def __init__(self, order: Order, claimed: Claimed, journal: Journal) -> None:
        self.order = order
        self._claimed = claimed
        self._journal = journal
        self._open = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def outcomes(self) -> dict[int, Outcome]:
        return self._claimed.outcomes

    def enter(self, count: int) -> None:
        self._open += count
        self._idle.clear()

    def settle(self, outcome: Outcome) -> asyncio.Future[None]:
        durable = self._journal.append(self.order.id, outcome)
        self.outcomes[outcome.n] = outcome
        durable.add_done_callback(self._one_less)
        return durable

    def leave(self, job: Job) -> None:
        self._one_less(None)

    def _one_less(self, _: object) -> None:
        self._open -= 1
        if self._open == 0:
            self._idle.set()

    async def settled(self) -> None:
        await self._idle.wait()


class Delivery(Protocol):
    """Takes jobs of one binding to their destinations."""

    def submit(self, jobs: Iterable[Job], binding: str) -> None:
        """Each job is settled or withdrawn in the end."""
        ...


class OrderRunner:
    def __init__(
        self,
        backends: Backends,
        *,
        claims: Claims,
        journal: Journal,
        events: EventWriter,
        parks: Parks,
        contents: Contents,
        delivery: Delivery,
        clock: Clock,
        settings: Settings,
    ) -> None:
        self._backends = backends
        self._claims = claims
        self._journal = journal
        self._events = events
        self._parks = parks
        self._contents = contents
        self._delivery = delivery
        self._clock = clock
        self._settings = settings
        self._turns = Turns()
        self._running: set[str] = set()

    async def handle(self, order: Order) -> float | None:
        """None when the Order is done; else the seconds after which its entry shall come back."""
        if order.id in self._running:
            return self._settings.visibility / 2
        self._running.add(order.id)
        try:
            return await self._run(order)
        except LostClaim:
            log.warning("claim_lost", order=order.id)
            return self._settings.lease_renew
        finally:
            self._running.discard(order.id)

    async def _run(self, order: Order) -> float | None:
        claimed = await self._claims.take(order.id)
        if isinstance(claimed, Held):
            return claimed.delay
        if isinstance(claimed, Finished):
            return None
        run = OrderRun(order, claimed, self._journal)
        async with self._turn(claimed):
            await self._deliver(run, claimed)
        if len(run.outcomes) < len(flatten(order)):
            await self._claims.release(claimed)
            return 0.0
        await self._finish(order, claimed)
        return None

    def _turn(self, claimed: Claimed) -> AbstractAsyncContextManager[None]:
        return self._turns.alone() if claimed.runs_alone else self._turns.shared()

    # ------------------------------------------------------------ deliver

    async def _deliver(self, run: OrderRun, claimed: Claimed) -> None:
        for n in claimed.poisonous():
            await self._keep_content(*flatten(run.order)[n])
            self._fail(run, n, "550 5.6.0 this message ended the process that tried it, several times")
        open_messages = [
            (n, transmission, message)
            for n, (transmission, message) in enumerate(flatten(run.order))
            if n not in run.outcomes
        ]
        try:
            if claimed.runs_alone:
                await self._deliver_one_by_one(run, claimed, open_messages)
            else:
                for batch in batches(open_messages):
                    await self._deliver_batch(run, batch)
        finally:
            await run.settled()

    async def _deliver_one_by_one(
        self, run: OrderRun, claimed: Claimed, messages: Sequence[tuple[int, Transmission, Message]]
    ) -> None:
        for n, transmission, message in messages:
            await self._claims.mark(claimed, n)
            await self._deliver_batch(run, [(n, transmission, message)])

    async def _deliver_batch(self, run: OrderRun, batch: Sequence[tuple[int, Transmission, Message]]) -> None:
        try:
            contents = await self._contents.load(transmission for _, transmission, _ in batch)
        except NotFound as error:
            for n, _, _ in batch:
                self._fail(run, n, f"550 5.6.0 the content is gone: {error}")
            return await run.settled()
        jobs = [job for each in batch if (job := self._job(run, contents[each[1].content], *each)) is not None]
        run.enter(len(jobs))
        self._delivery.submit(jobs, run.order.binding)
        await run.settled()

    def _job(self, run: OrderRun, content: Content, n: int, transmission: Transmission, message: Message) -> Job | None:
        """None for a message that ended here."""
        now = self._clock.now()
        if now >= transmission.expires_at:
            reply = "554 5.4.7 message expired before it could be delivered"
            self._end(run, Outcome(n, EXPIRED, now, code=554, reply=reply))
            return None
        try:
            data = build(content, transmission, message)
        except Exception as error:
            log.exception("rendering_failed", transmission=transmission.id, index=message.index)
            self._fail(run, n, f"550 5.6.0 rendering failed: {error!r}")
            return None
        return Job(run, n, transmission, message, data)

    async def _keep_content(self, transmission: Transmission, message: Message) -> None:
        """A copy that outlives the mail's own retention, for whoever looks into why it killed workers."""
        source = transmission.content
        with contextlib.suppress(NotFound):
            content = await self._backends.blobs.get(source.key, source.offset, source.length)
            await self._backends.blobs.put(f"failed/{message_id(transmission.id, message.index)}", content)

    def _fail(self, run: OrderRun, n: int, reply: str) -> None:
        self._end(run, Outcome(n, FAILED, self._clock.now(), code=550, reply=reply))

    def _end(self, run: OrderRun, outcome: Outcome) -> None:
        run.enter(1)
        run.settle(outcome)

    # ------------------------------------------------------------ finish

    async def _finish(self, order: Order, claimed: Claimed) -> None:
        """All outcomes are durable. What follows can be repeated, in this order."""
        await self._park(order, claimed)
        await self._events.write(events_of(order, claimed.outcomes))
        await self._claims.finish(claimed)

    async def _park(self, order: Order, claimed: Claimed) -> None:
        await self._parks.write(parks_of(order, claimed.outcomes))


def batches(
    messages: Iterable[tuple[int, Transmission, Message]], most_bytes: int = BATCH_BYTES
) -> list[list[tuple[int, Transmission, Message]]]:
    """Runs whose contents fit into memory together, at least one message each."""
    runs: list[list[tuple[int, Transmission, Message]]] = []
    size = most_bytes + 1
    for each in messages:
        size += each[1].content.length
        if size > most_bytes:
            runs.append([])
            size = each[1].content.length
        runs[-1].append(each)
    return runs

"""Step 1 of the protocol: accept.

Content and recipients go to the blob store, then one queue entry per tenant of
the commit, and only then does the caller say 250 or 200. A commit takes all
that waited while the one before was being written.

A transmission with an idempotency key is not packed with others: what its id
names is put *if absent* and a retry uses what is stored, so that the router
meets every copy of it with the same plan.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
from msgspec import Struct

from postfleet.clock import Clock
from postfleet.ids import TransmissionIds, nonce
from postfleet.layout import lay_out, unit_entries
from postfleet.ports import BlobStore, Outgoing, Row, StateTable, WorkQueue
from postfleet.settings import HOUR, Settings
from postfleet.stages import Submission, encode

COMMIT_BYTES = 32 * 1024 * 1024
KEY_LIFETIME = 24 * HOUR
SLOW_ARRIVAL = 0.1
"""Seconds after which nobody waits for a message that has begun."""
UNITS = "units"
"""Name of the router's queue."""


class KeyConflict(Exception):
    """The idempotency key was used with another body."""


class IdempotencyRow(Struct, frozen=True):
    id: str
    digest: str
    nonce: str
    done: bool = False


class Acceptor:
    """`accept` and `accept_keyed` return once the submission is durable.

    They raise `postfleet.ports.Refused` when nothing was stored (`StoreFull`
    among them) and `postfleet.ports.Unavailable` when that is not known.
    """

    def __init__(
        self,
        *,
        blobs: BlobStore,
        units: WorkQueue,
        state: StateTable,
        clock: Clock,
        settings: Settings,
        rng: random.Random,
    ) -> None:
        self._blobs = blobs
        self._units = units
        self._state = state
        self._clock = clock
        self._settings = settings
        self._rng = rng
        self._ids = TransmissionIds(clock, rng)
        self._waiting: list[tuple[Submission, asyncio.Future[None]]] = []
        self._committer: asyncio.Task[None] | None = None
        self._arriving: dict[object, float] = {}
        """Clients whose message has begun, and when, the earliest first."""
        self._all_here = asyncio.Event()
        self._crowded = False
        """The last commit carried several submissions."""

    def new_id(self) -> str:
        return self._ids.new()

    def announce(self, client: object) -> None:
        """A message from this client has begun to arrive; a commit waits a little for it."""
        self._arriving[client] = self._clock.mono()

    def arrived(self, client: object) -> None:
        """It is about to be submitted, or will not come. A client that was not announced is passed over."""
        self._arriving.pop(client, None)
        if not self._arriving:
            self._all_here.set()

    async def accept(self, submission: Submission) -> None:
        await self.submit(submission)

    def submit(self, submission: Submission) -> asyncio.Future[None]:
        """As `accept`, for callers without a task of their own."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((submission, done))
        if self._committer is None:
            self._committer = asyncio.create_task(self._commit_all())
        return done

    async def _commit_all(self) -> None:
        try:
            while self._waiting:
                await self._linger()
                batch = self._take_batch()
                self._crowded = len(batch) > 1
                failure = await self._commit([submission for submission, _ in batch])
                for _, done in batch:
                    if done.done():
                        continue
                    if failure is None:
                        done.set_result(None)
                    else:
                        done.set_exception(failure)
        finally:
            self._committer = None

    async def _linger(self) -> None:
        """Wait a little for company: fewer, larger commits."""
        if self._somebody_arrives():
            self._all_here.clear()
            with suppress(TimeoutError):
                async with asyncio.timeout(self._settings.accept_gather):
                    await self._all_here.wait()
        elif self._crowded:
            await asyncio.sleep(self._settings.accept_linger)

    def _somebody_arrives(self) -> bool:
        """Slow clients do not count: what has been arriving for long is not about to be here."""
        since = self._clock.mono() - SLOW_ARRIVAL
        while self._arriving and (first := next(iter(self._arriving.items())))[1] < since:
            del self._arriving[first[0]]
        return bool(self._arriving) and self._settings.accept_gather > 0

    def _take_batch(self) -> list[tuple[Submission, asyncio.Future[None]]]:
        size = 0
        for count, (submission, _) in enumerate(self._waiting):
            size += len(submission.content)
            if size > COMMIT_BYTES and count:
                batch, self._waiting = self._waiting[:count], self._waiting[count:]
                return batch
        batch, self._waiting = self._waiting, []
        return batch

    async def _commit(self, submissions: Sequence[Submission]) -> Exception | None:
        first = submissions[0].id
        now = self._clock.now()
        try:
            data, placed = lay_out(submissions)
            key, base = await self._blobs.append(_blob_key(first, now), data)
            entries = unit_entries(placed, key, base, now, self._settings.message_lifetime)
            await self._units.send([Outgoing(encode(entry), group=str(tenant)) for tenant, entry in entries])
        except Exception as error:
            return error
        return None

    async def accept_keyed(
        self, tenant: int, key: str, body_digest: str, build: Callable[[str], Submission]
    ) -> tuple[str, bool]:
        """(transmission id, whether an earlier call had accepted it already).

        `build` makes the submission under the id that it is given. Raises
        `KeyConflict` when the key came before with another body.
        """
        row = await self._pending(tenant, key, body_digest)
        record = msgspec.json.decode(row.body, type=IdempotencyRow)
        if record.digest != body_digest:
            raise KeyConflict(key)
        if record.done:
            return record.id, True
        await self._store_keyed(build(record.id))
        await self._state.put_if(row, encode(msgspec.structs.replace(record, done=True)), row.expires)
        return record.id, False

    async def _pending(self, tenant: int, key: str, body_digest: str) -> Row:
        partition = f"key/{tenant}/{key}"
        record = IdempotencyRow(self.new_id(), body_digest, nonce(self._rng))
        now = self._clock.now()
        written = await self._state.put_if_absent(partition, "", encode(record), now + KEY_LIFETIME)
        while not written.ok and written.row is not None and (written.row.expires or now) <= now:
            written = await self._state.put_if(written.row, encode(record), now + KEY_LIFETIME)
        if written.row is None:
            return await self._pending(tenant, key, body_digest)
        return written.row

    async def _store_keyed(self, submission: Submission) -> None:
        """The blob ends with the queue entry and its length, so that one conditional put names all."""
        key = f"mail/keyed/{submission.id}"
        data, placed = lay_out([submission])
        ((_, entry),) = unit_entries(placed, key, 0, self._clock.now(), self._settings.message_lifetime)
        body = encode(entry)
        if not await self._blobs.put_if_absent(key, data + body + len(body).to_bytes(8, "big")):
            stored = await self._blobs.get(key)
            body = stored[-8 - int.from_bytes(stored[-8:], "big") : -8]
        await self._units.send([Outgoing(body, group=str(submission.tenant))])


def _blob_key(first: str, now: float) -> str:
    return time.strftime("mail/%Y%m%d/%H%M/", time.gmtime(now)) + first

"""The journal of an incarnation: rows (incarnation, sequence), put if absent, one write in flight.

A row carries the outcomes of all connections within a short window. A write of
unknown result is repeated byte for byte until it is known; newer outcomes wait
for the next number. Whoever takes over seals the journal by putting a SEAL in
its next place: from then on the owner's writes fail, and it must stop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import msgspec
import structlog
from msgspec import Struct

from postfleet.clock import Clock
from postfleet.ports import Row, StateTable, StorageError
from postfleet.settings import Settings
from postfleet.stages import Outcome

log = structlog.get_logger()

ROW_OUTCOMES = 1000
RETRY = 0.2


class JournalRow(Struct, frozen=True, array_like=True):
    """`sealed_by` is empty but in a SEAL, which has no outcomes."""

    nonce: str
    outcomes: tuple[tuple[str, Outcome], ...] = ()
    """(Order id, outcome)"""
    sealed_by: str = ""


class _Batch(NamedTuple):
    outcomes: list[tuple[str, Outcome]]
    durable: asyncio.Future[None]


_decode = msgspec.json.Decoder(JournalRow).decode


def _partition(incarnation: str) -> str:
    return f"journal/{incarnation}"


def _place(sequence: int) -> str:
    return f"{sequence:012d}"


class Journal:
    """`on_fenced` is called once, when the journal turns out to be sealed."""

    def __init__(
        self,
        state: StateTable,
        incarnation: str,
        *,
        clock: Clock,
        settings: Settings,
        on_fenced: Callable[[str], None],
    ) -> None:
        self._state = state
        self._incarnation = incarnation
        self._clock = clock
        self._settings = settings
        self._on_fenced = on_fenced
        self._batches: deque[_Batch] = deque()
        self._last: asyncio.Future[None] | None = None
        self._writer: asyncio.Task[None] | None = None
        self._fenced = False
        self._busy = False
        """The last row had several outcomes."""
        self.sequence = 0
        """The place of the next write; outcomes appended from now on stand there or later."""

    def append(self, order: str, outcome: Outcome) -> asyncio.Future[None]:
        """A future, shared by all of one row, that is done once the outcome is durable; never, once fenced."""
        if not self._batches or len(self._batches[-1].outcomes) >= ROW_OUTCOMES:
            self._batches.append(_Batch([], asyncio.get_running_loop().create_future()))
        batch = self._batches[-1]
        batch.outcomes.append((order, outcome))
        self._last = batch.durable
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        return batch.durable

    async def flush(self) -> None:
        """Return when everything appended so far is durable."""
        if self._last is not None:
            await asyncio.wait([self._last])

    async def _write_all(self) -> None:
        try:
            while self._batches and not self._fenced:
                if window := self._window():
                    await asyncio.sleep(window)
                batch = self._batches.popleft()
                self._busy = len(batch.outcomes) > 1
                await self._write_row(batch)
        finally:
            self._writer = None

    def _window(self) -> float:
        return self._settings.journal_window_busy if self._busy else self._settings.journal_window

    async def _write_row(self, batch: _Batch) -> None:
        body = msgspec.json.encode(JournalRow(f"{self._incarnation}.{self.sequence}", tuple(batch.outcomes)))
        if await self._put(body):
            self.sequence += 1
            batch.durable.set_result(None)

    async def _put(self, body: bytes) -> bool:
        expires = self._settings.ownership_expiry(self._clock.now())
        while True:
            try:
                written = await self._state.put_if_absent(
                    _partition(self._incarnation), _place(self.sequence), body, expires
                )
                break
            except StorageError as error:
                log.warning("journal_write_repeated", sequence=self.sequence, error=str(error))
                await asyncio.sleep(RETRY)
        if written.ok or (written.row is not None and written.row.body == body):
            return True
        self._fenced = True
        self._on_fenced("the journal is sealed")
        return False


async def read_journal(state: StateTable, incarnation: str, start: int) -> tuple[list[tuple[str, Outcome]], int, bool]:
    """(outcomes, place after the last row, whether sealed) from `start` to the first gap or SEAL."""
    outcomes: list[tuple[str, Outcome]] = []
    place = start
    while True:
        rows = await state.query(_partition(incarnation), start=_place(place))
        for row in rows:
            if row.sort != _place(place):
                return outcomes, place, False
            record = _decode(row.body)
            if record.sealed_by:
                return outcomes, place, True
            outcomes += record.outcomes
            place += 1
        if not rows:
            return outcomes, place, False


async def seal_journal(
    state: StateTable, incarnation: str, start: int, sealer: str, expires: float
) -> list[tuple[str, Outcome]]:
    """Close a dead incarnation's journal for good; its outcomes from `start` on."""
    outcomes: list[tuple[str, Outcome]] = []
    place = start
    while True:
        more, place, sealed = await read_journal(state, incarnation, place)
        outcomes += more
        if sealed or await _put_seal(state, incarnation, place, sealer, expires):
            return outcomes


async def _put_seal(state: StateTable, incarnation: str, place: int, sealer: str, expires: float) -> bool:
    body = msgspec.json.encode(JournalRow(sealer, sealed_by=sealer))
    written = await state.put_if_absent(_partition(incarnation), _place(place), body, expires)
    return written.ok or _is_seal(written.row)


def _is_seal(row: Row | None) -> bool:
    return row is not None and bool(_decode(row.body).sealed_by)

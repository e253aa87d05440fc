"""Writes that come at about the same time become one, so that a busy process makes fewer, larger ones."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class Gatherer(Generic[T]):
    """`write` is given what was put in since the write before, one write at a time.

    It waits `window` seconds for more; `busy_window` once the write before carried what several had put in, so
    that whoever is alone does not wait for nobody. Without either, each put is a write of its own.
    """

    def __init__(
        self, write: Callable[[list[T]], Awaitable[object]], *, window: float = 0.0, busy_window: float = 0.0
    ) -> None:
        self._write = write
        self._window = window
        self._busy_window = max(window, busy_window)
        self._busy = False
        self._waiting: list[tuple[Sequence[T], asyncio.Future[None]]] = []
        self._writer: asyncio.Task[None] | None = None

    async def put(self, things: Sequence[T]) -> None:
        """Return once all are written. Raises what `write` raised."""
        if not things:
            return
        if not self._busy_window:
            await self._write(list(things))
            return
        written: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((things, written))
        if self._writer is None:
            self._writer = asyncio.create_task(self._write_all())
        await written

    async def _write_all(self) -> None:
        try:
            while self._waiting:
                await asyncio.sleep(self._busy_window if self._busy else self._window)
                batch, self._waiting = self._waiting, []
                self._busy = len(batch) > 1
                failure = await self._failure([thing for things, _ in batch for thing in things])
                for _, written in batch:
                    if not written.done():
                        _settle(written, failure)
        finally:
            self._writer = None

    async def _failure(self, things: list[T]) -> Exception | None:
        try:
            await self._write(things)
        except Exception as error:
            return error
        return None


def _settle(written: asyncio.Future[None], failure: Exception | None) -> None:
    if failure is None:
        written.set_result(None)
    else:
        written.set_exception(failure)

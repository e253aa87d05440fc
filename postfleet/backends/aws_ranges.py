"""Range reads of one blob that come at about the same time become one request.

A request costs over a millisecond of CPU and tens of milliseconds of waiting; what lies between two contents of one
pack costs a fraction of either.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NamedTuple

GAP = 512 * 1024
"""Bytes read in vain that cost less than another request: measured, a tenth to a fifth of its CPU."""
MOST = 4 * 1024 * 1024
"""Bytes to which reads are put together, so that many at a time fit into memory."""
WINDOW = 0.005
"""For how long a read waits for others of its blob, seconds: a fraction of what S3 takes to answer."""


class Range(NamedTuple):
    offset: int
    length: int

    @property
    def end(self) -> int:
        return self.offset + self.length


def coalesce(ranges: Iterable[Range], gap: int, most: int) -> list[list[Range]]:
    """Ranges in runs worth one read each: ascending, with at most `gap` bytes between the parts of a run, which spans
    at most `most` bytes if it is not a single range.
    """
    runs: list[list[Range]] = []
    end = 0
    for each in sorted(ranges):
        if runs and each.offset - end <= gap and max(end, each.end) - runs[-1][0].offset <= most:
            runs[-1].append(each)
            end = max(end, each.end)
        else:
            runs.append([each])
            end = each.end
    return runs


class RangeReader:
    """`read(key, offset, length)` is the request; it may return less at the end of the blob."""

    def __init__(self, read: Callable[[str, int, int], Awaitable[bytes]]) -> None:
        self._read = read
        self._asked: dict[str, dict[Range, asyncio.Future[bytes]]] = {}
        self._reading: set[asyncio.Task[None]] = set()

    async def get(self, key: str, offset: int, length: int) -> bytes:
        """Raises what `read` raises."""
        loop = asyncio.get_running_loop()
        if key not in self._asked:
            self._asked[key] = {}
            loop.call_later(WINDOW, self._start, key)
        answer = self._asked[key].setdefault(Range(offset, length), loop.create_future())
        return await asyncio.shield(answer)

    def _start(self, key: str) -> None:
        asked = self._asked.pop(key)
        for run in coalesce(asked, GAP, MOST):
            task = asyncio.create_task(self._serve(key, {each: asked[each] for each in run}))
            self._reading.add(task)
            task.add_done_callback(self._reading.discard)

    async def _serve(self, key: str, asked: Mapping[Range, asyncio.Future[bytes]]) -> None:
        start, end = min(asked).offset, max(each.end for each in asked)
        try:
            data = await self._read(key, start, end - start)
        except Exception as error:
            for answer in asked.values():
                answer.set_exception(error)
                answer.exception()  # seen, also when nobody waits any more
        else:
            for each, answer in asked.items():
                answer.set_result(data[each.offset - start : each.end - start])

"""Reporting: small segments become large ones, events seen twice become one, old ones go."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence

import structlog

from postfleet.clock import Clock
from postfleet.event_log import LOG, segment_keys
from postfleet.events import EVENTS, segment_key
from postfleet.ports import Backends, NotFound, Received, StorageError
from postfleet.settings import HOUR, Settings
from postfleet.stages import EventSegment, decode_segment
from reporting.merge import merged, merged_name

log = structlog.get_logger()

SEGMENTS = 200
LINGER = 1.0
"""A merge takes what was announced within about this time, seconds."""
TROUBLE_PAUSE = 2.0


class Reporting:
    """Put the merged segment, delete its parts, acknowledge: repeatable from any point."""

    def __init__(self, backends: Backends, *, clock: Clock, settings: Settings) -> None:
        self._blobs = backends.blobs
        self._announcements = backends.queue(EVENTS)
        self._clock = clock
        self._settings = settings
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        expiry = asyncio.create_task(self._keep_expiring())
        try:
            while not self._stopping.is_set():
                await self._once()
        finally:
            expiry.cancel()

    async def _once(self) -> None:
        try:
            entries = await self._announcements.receive(SEGMENTS, wait=LINGER)
            if entries:
                await self.merge(entries)
        except StorageError as error:
            log.warning("merge_failed", error=str(error))
            await self._pause(TROUBLE_PAUSE)
        else:
            await self._pause(LINGER)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._stopping.wait(), seconds)

    async def merge(self, entries: Sequence[Received]) -> None:
        segments = [decode_segment(entry.body) for entry in entries]
        found = await self._read(segments)
        if found:
            name = merged_name(found)
            first = min(segment.first for segment in segments if segment.key in found)
            await self._blobs.put(segment_key(LOG, first, name), merged(found.values()))
            await self._blobs.delete(list(found))
        await self._announcements.ack([entry.handle for entry in entries])

    async def _read(self, segments: Sequence[EventSegment]) -> dict[str, bytes]:
        """By key. A segment that is gone was merged before: its announcement came again."""
        found: dict[str, bytes] = {}
        for segment in segments:
            try:
                found[segment.key] = await self._blobs.get(segment.key)
            except NotFound:
                continue
        return found

    async def _keep_expiring(self) -> None:
        while True:
            try:
                await self._expire()
            except StorageError as error:
                log.warning("expiry_failed", error=str(error))
            await asyncio.sleep(HOUR)

    async def _expire(self) -> None:
        oldest = self._clock.now() - self._settings.event_retention
        bound = time.strftime("events/log/%Y%m%d%H", time.gmtime(oldest))
        await self._blobs.delete([key for key in await segment_keys(self._blobs, LOG, 0.0) if key < bound])

"""Reading events back: segments as their writers left them (`new`) and as reporting merged them (`log`)."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterable

from postfleet.ports import BlobStore, NotFound
from postfleet.settings import HOUR
from postfleet.stages import Event, decode_event

NEW, LOG = "new", "log"


async def read_events(blobs: BlobStore, *, since: float = 0.0, containing: str = "") -> AsyncIterator[Event]:
    """Every event once, in no order. `since`, Unix seconds, leaves out the hours before; `containing` leaves
    out events whose JSON does not contain it.

    A segment that reporting moves meanwhile is found in its new place: what is listed under `new` but gone
    when it is read is looked for under `log` again.
    """
    seen: set[str] = set()
    needle = containing.encode()
    moved = True
    read: set[str] = set()
    while moved:
        moved = False
        for key in [*await segment_keys(blobs, NEW, since), *await segment_keys(blobs, LOG, since)]:
            if key in read:
                continue
            try:
                data = await blobs.get(key)
            except NotFound:
                moved = True
                continue
            read.add(key)
            for line in lines_with(data, needle):
                event = decode_event(line)
                if event.event_id not in seen:
                    seen.add(event.event_id)
                    yield event


def lines_with(data: bytes, needle: bytes) -> Iterable[bytes]:
    if needle and needle not in data:
        return []
    return [line for line in data.splitlines() if needle in line]


async def segment_keys(blobs: BlobStore, kind: str, since: float) -> list[str]:
    prefix = f"events/{kind}/"
    after = prefix + time.strftime("%Y%m%d%H", time.gmtime(since - HOUR)) if since else ""
    keys: list[str] = []
    while True:
        page = await blobs.list(prefix, after=keys[-1] if keys else after)
        keys += page
        if len(page) < 1000:
            return keys

"""Durable events: NDJSON segments in the blob store, each announced by one queue entry.

What all writers of a process have within a short window goes into one segment.
Event ids derive from plan rows and outcomes: writing twice is harmless, readers
drop by `event_id`.
"""

from __future__ import annotations

import hashlib
import random
import time
from collections.abc import Sequence
from typing import Any

from postfleet.clock import Clock
from postfleet.gather import Gatherer
from postfleet.ids import nonce
from postfleet.ports import BlobStore, Outgoing, WorkQueue
from postfleet.settings import Settings
from postfleet.stages import Event, EventSegment, Message, Transmission, encode, message_id

EVENTS = "events"
"""Name of the queue of announcements, and first part of the segments' keys."""


def event_id(*parts: object) -> str:
    """Digits that depend on nothing but the parts."""
    digest = hashlib.blake2b("/".join(map(str, parts)).encode(), digest_size=8).digest()
    return str(int.from_bytes(digest, "big") >> 1)


def mail_event(
    identity: str, kind: str, timestamp: float, transmission: Transmission, message: Message, **details: Any
) -> Event:
    """An event about one message; `details` are further fields of `Event`."""
    return Event(
        event_id=identity,
        type=kind,
        timestamp=timestamp,
        transmission_id=transmission.id,
        message_id=message_id(transmission.id, message.index),
        subaccount_id=transmission.tenant,
        rcpt_to=message.address,
        sending_domain=transmission.sending_domain,
        ip_pool=transmission.pool,
        campaign_id=transmission.campaign,
        friendly_from=transmission.friendly_from,
        subject=transmission.subject,
        recv_method=transmission.method,
        msg_size=transmission.content.length,
        num_retries=message.attempts,
        injection_time=transmission.accepted_at,
        **details,
    )


class EventWriter:
    """`write` returns once its events are durable and announced; raises what the ports raise."""

    def __init__(
        self, *, blobs: BlobStore, announcements: WorkQueue, clock: Clock, settings: Settings, rng: random.Random
    ) -> None:
        self._blobs = blobs
        self._announcements = announcements
        self._clock = clock
        self._writer_name = nonce(rng)
        self._segment = 0
        self._segments = Gatherer(
            self._write_segment, window=settings.events_window, busy_window=settings.events_window_busy
        )

    async def write(self, events: Sequence[Event]) -> None:
        await self._segments.put(events)

    async def _write_segment(self, events: Sequence[Event]) -> None:
        self._segment += 1
        now = self._clock.now()
        key = segment_key("new", now, f"{self._writer_name}-{self._segment}")
        segment = EventSegment(key, len(events), events[0].timestamp, events[-1].timestamp)
        await self._blobs.put(key, b"\n".join(map(encode, events)) + b"\n")
        await self._announcements.send([Outgoing(encode(segment))])


def segment_key(kind: str, when: float, name: str) -> str:
    """`events/<kind>/<hour>/<name>`; kind is `new` as written, `log` once compacted."""
    return time.strftime(f"events/{kind}/%Y%m%d%H/", time.gmtime(when)) + name

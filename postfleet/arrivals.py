"""The inbox as ingest sees it: a queue whose entries say who sent them, what it refuses, and what entries refer to."""

from __future__ import annotations

from typing import Protocol

import msgspec
from msgspec import Struct

from postfleet.handover import S3Object
from postfleet.ports import Refused, WorkQueue


class Arrival(Struct, frozen=True):
    """One entry as it came. It is the body of what `Inbox.queue` gives, as JSON."""

    message_id: str
    """The queue's own."""
    sender_id: str
    """Who sent it, as the queue says."""
    sent_at: float
    """Unix seconds."""
    receives: int
    """How often it has been received, this time included."""
    body: str


INBOX, DEAD = "inbox", "inbox-dead"
"""Names of the queues: of entries, and of those that were refused."""
decode_arrival = msgspec.json.Decoder(Arrival).decode


class Reason(Struct, frozen=True):
    """Why an entry is a dead letter."""

    kind: str
    """A short fixed word."""
    code: str
    """That of the API's error, where there is one."""
    description: str


class UnreadableObject(Refused):
    """An entry refers to what is not there, or may not be read; trying again would not help."""


class Inbox(Protocol):
    """Raises what the ports raise."""

    @property
    def queue(self) -> WorkQueue: ...

    async def bury(self, arrival: Arrival, reason: Reason) -> None:
        """Returns once a dead letter holds the entry and the reason; the entry itself is left to be acked."""
        ...

    async def read(self, place: S3Object, most: int) -> bytes:
        """Raises `UnreadableObject`, and `TooLarge` past `most` bytes."""
        ...

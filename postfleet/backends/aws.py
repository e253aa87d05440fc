"""All storage of a deployment on AWS: one bucket, one table, and queues with one prefix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from types import TracebackType

from postfleet.arrivals import INBOX
from postfleet.backends.aws_blobs import AwsBlobStore
from postfleet.backends.aws_clients import AwsClients, Observer, open_clients
from postfleet.backends.aws_inbox import AwsInbox
from postfleet.backends.aws_queue import AwsQueue, ensure_queue
from postfleet.backends.aws_setup import block_public_access, ensure_bucket, ensure_expiry, ensure_table
from postfleet.backends.aws_state import AwsStateTable
from postfleet.deployment import AwsPlaces
from postfleet.settings import Settings

_QUEUE_NAME = re.compile(r"[a-z0-9-]+")


class AwsBackends:
    """The ports on AWS. Made by `open_aws`; belongs to the loop that opened it."""

    def __init__(self, clients: AwsClients, places: AwsPlaces, visibility: float) -> None:
        self.blobs = AwsBlobStore(clients.s3, places.bucket)
        self.state = AwsStateTable(clients.dynamodb, places.table)
        self._clients = clients
        self._places = places
        self._visibility = visibility
        self._queues: dict[str, AwsQueue] = {}

    def queue(self, name: str) -> AwsQueue:
        """Raises `ValueError` for a name that is not of lower-case letters, digits and `-`."""
        if name not in self._queues:
            if not _QUEUE_NAME.fullmatch(name):
                raise ValueError(f"queue name {name!r}: use lower-case letters, digits and '-'")
            self._queues[name] = AwsQueue(self._clients, self._places.queue_prefix + name, self._visibility)
        return self._queues[name]

    def inbox(self) -> AwsInbox:
        """The queue that producers write to."""
        inbox = AwsInbox(self._clients, self._places.queue_prefix, self._visibility)
        self._queues[INBOX] = inbox.queue
        return inbox

    async def close(self) -> None:
        """Waits for what is on its way back to the queues."""
        for queue in self._queues.values():
            await queue.close()
        await self._clients.close()

    async def __aenter__(self) -> AwsBackends:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


async def open_aws(
    places: AwsPlaces, *, visibility: float, concurrency: int = 64, observe: Observer | None = None
) -> AwsBackends:
    """The bucket and the table must be there. `visibility` is the queues', seconds."""
    return AwsBackends(await open_clients(concurrency, observe), places, visibility)


async def create_missing(places: AwsPlaces, settings: Settings, queues: Iterable[str]) -> None:
    """Make what is not there yet of the bucket, the table and the queues, and set the bucket's rules anew."""
    async with await open_clients() as clients:
        await ensure_bucket(clients.s3, places.bucket, settings)
        await block_public_access(clients.s3, places.bucket)
        await ensure_table(clients.dynamodb, places.table)
        await ensure_expiry(clients.dynamodb, places.table)
        for name in queues:
            await ensure_queue(clients.sqs, places.queue_prefix + name, settings.visibility)

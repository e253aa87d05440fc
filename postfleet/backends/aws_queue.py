"""Work queues on SQS standard queues.

The message group of an entry makes a standard queue a fair one: tenants with
little in flight go first. Leases are counted in whole seconds, and a stale
handle is passed over as far as SQS itself does so.
"""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Coroutine, Iterable, Sequence
from contextlib import suppress
from typing import Any

from botocore.exceptions import ClientError

from postfleet.backends.aws_backoff import TRIES, back_off
from postfleet.backends.aws_clients import LONGEST_POLL, TRANSIENT, AwsClients, error_code, translated
from postfleet.ports import (
    MAX_DELAY,
    MAX_ENTRY,
    Outgoing,
    QueueStats,
    Received,
    Refused,
    StorageError,
    TooLarge,
    Unavailable,
)

BATCH = 10
"""Entries of one request."""
MAX_REQUEST = 1024 * 1024
"""Bytes of the bodies of one request."""
RETENTION = 14 * 24 * 3600
MAX_RECEIVES = 1000
"""The most that SQS allows before it moves an entry to the dead-letter queue: a last net, no policy."""
_ATTRIBUTES = {"MessageRetentionPeriod": str(RETENTION), "SqsManagedSseEnabled": "true"}
_ABSENT = frozenset({"QueueDoesNotExist", "NonExistentQueue"})
_REPLY_ON_ITS_WAY = 1.0
"""A receive that nobody waits for any more gets so long to say what it took, seconds."""
_COUNTS = (
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
)

Item = dict[str, Any]
ASK_FOR = ("ApproximateReceiveCount", "MessageGroupId")


def read_entry(message: Item) -> Received:
    """What SQS says of a message that was asked for with `ASK_FOR`."""
    attributes = message["Attributes"]
    return Received(
        body=message["Body"].encode(),
        handle=message["ReceiptHandle"],
        receives=int(attributes["ApproximateReceiveCount"]),
        group=attributes.get("MessageGroupId", ""),
    )


class AwsQueue:
    """`name` is the queue's in SQS, `visibility` seconds, rounded up.

    `read` makes an entry of a message that came with the system attributes `ask_for`.
    """

    def __init__(
        self,
        clients: AwsClients,
        name: str,
        visibility: float,
        *,
        ask_for: Sequence[str] = ASK_FOR,
        read: Callable[[Item], Received] = read_entry,
    ) -> None:
        self.name = name
        self._sqs = clients.sqs
        self._sqs_poll = clients.sqs_poll
        self._visibility = math.ceil(visibility)
        self._ask_for = ask_for
        self._read = read
        self._url = ""
        self._finding = asyncio.Lock()
        self._giving_back: set[asyncio.Task[None]] = set()

    async def send(self, entries: Sequence[Outgoing]) -> None:
        for entry in entries:
            if len(entry.body) > MAX_ENTRY:
                raise TooLarge(f"queue {self.name}: an entry of {len(entry.body)} bytes, more than {MAX_ENTRY}")
            self._check_delay(entry.delay)
        batches = packed([len(entry.body) for entry in entries])
        await _all(self._send([_item(index, entries[index]) for index in batch]) for batch in batches)

    async def receive(self, limit: int, wait: float) -> list[Received]:
        """Cancelled, it gives back what it was about to return."""
        taking = asyncio.ensure_future(self._take(limit, wait))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            task = asyncio.create_task(self._give_back(taking))
            self._giving_back.add(task)
            task.add_done_callback(self._giving_back.discard)
            raise

    async def extend(self, handles: Sequence[str]) -> None:
        await self._hide(handles, self._visibility)

    async def ack(self, handles: Sequence[str]) -> None:
        await self._with_handles("delete_message_batch", handles, {})

    async def release(self, handles: Sequence[str], delay: float = 0.0) -> None:
        self._check_delay(delay)
        await self._hide(handles, math.ceil(delay))

    async def stats(self) -> QueueStats:
        reply = await self._call(self._sqs, "get_queue_attributes", AttributeNames=_COUNTS)
        return QueueStats(*(int(reply["Attributes"][name]) for name in _COUNTS))

    async def close(self) -> None:
        """Waits until what cancelled receives took is given back."""
        await asyncio.gather(*self._giving_back)

    def _check_delay(self, delay: float) -> None:
        if delay > MAX_DELAY:
            raise TooLarge(f"queue {self.name}: a delay of {delay} s is over {MAX_DELAY} s")

    # Receiving.

    async def _take(self, limit: int, wait: float) -> list[Received]:
        received = await self._wait_for_first(min(limit, BATCH), wait)
        if len(received) == BATCH < limit:
            received += await self._take_more(limit - BATCH)
        return received

    async def _wait_for_first(self, limit: int, wait: float) -> list[Received]:
        """SQS waits for whole seconds; what is left of `wait` is slept, and looked once more."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + wait
        left = wait
        while True:
            received = await self._receive(self._sqs_poll, limit, min(int(left), LONGEST_POLL))
            left = deadline - loop.time()
            if received or left <= 0:
                return received
            if left < 1:
                await asyncio.sleep(left)

    async def _take_more(self, limit: int) -> list[Received]:
        """A full reply says that there is more. What fails of this is as if nothing had been found."""
        limits = [min(BATCH, limit - start) for start in range(0, limit, BATCH)]
        replies = await asyncio.gather(*(self._receive(self._sqs, some, 0) for some in limits), return_exceptions=True)
        return [entry for reply in replies if not isinstance(reply, BaseException) for entry in reply]

    async def _receive(self, client: Any, limit: int, wait: int) -> list[Received]:
        reply = await self._call(
            client,
            "receive_message",
            MaxNumberOfMessages=limit,
            WaitTimeSeconds=wait,
            VisibilityTimeout=self._visibility,
            MessageSystemAttributeNames=self._ask_for,
        )
        return [self._read(message) for message in reply.get("Messages", ())]

    async def _give_back(self, taking: asyncio.Future[list[Received]]) -> None:
        """What a cancelled receive took need not stay hidden. If its reply does not come, the lease runs out."""
        await asyncio.wait([taking], timeout=_REPLY_ON_ITS_WAY)
        if not taking.done():
            taking.cancel()
            await asyncio.wait([taking])
        elif not taking.cancelled() and taking.exception() is None:
            with suppress(StorageError):
                await self.release([entry.handle for entry in taking.result()])

    # Requests.

    async def _hide(self, handles: Sequence[str], seconds: int) -> None:
        await self._with_handles("change_message_visibility_batch", handles, {"VisibilityTimeout": seconds})

    async def _with_handles(self, operation: str, handles: Sequence[str], change: Item) -> None:
        """What SQS refuses of this are handles that are stale."""
        items = [{"Id": str(index), "ReceiptHandle": handle, **change} for index, handle in enumerate(handles)]
        batches = [items[start : start + BATCH] for start in range(0, len(items), BATCH)]
        await _all(self._batch(operation, batch) for batch in batches)

    async def _send(self, items: list[Item]) -> None:
        refused = await self._batch("send_message_batch", items)
        if refused:
            reason = f"queue {self.name}: {len(refused)} of {len(items)} entries refused: {_reason(refused[0])}"
            raise Refused(reason) if len(refused) == len(items) else Unavailable(reason)

    async def _batch(self, operation: str, items: list[Item]) -> list[Item]:
        """One request, and again what of it SQS put off. Returns the failures that are our fault."""
        refused: list[Item] = []
        for attempt in range(TRIES):
            reply = await self._call(self._sqs, operation, Entries=items)
            failed = {failure["Id"]: failure for failure in reply.get("Failed", ())}
            refused += [failure for failure in failed.values() if not _put_off(failure)]
            items = [item for item in items if item["Id"] in failed and _put_off(failed[item["Id"]])]
            if not items:
                return refused
            await back_off(attempt)
        raise Unavailable(f"queue {self.name}: {operation}: {_reason(failed[items[0]['Id']])}")

    async def _call(self, client: Any, operation: str, **parameters: Any) -> Item:
        with translated(f"queue {self.name}: {operation}"):
            url = self._url or await self._find()
            try:
                reply: Item = await getattr(client, operation)(QueueUrl=url, **parameters)
            except ClientError as error:
                if error_code(error) not in _ABSENT:
                    raise
                self._url = ""
                raise Unavailable(f"queue {self.name} is gone, or too new: the next call looks for it") from error
        return reply

    async def _find(self) -> str:
        async with self._finding:
            self._url = self._url or await ensure_queue(self._sqs, self.name, self._visibility)
        return self._url


def packed(sizes: Sequence[int]) -> list[list[int]]:
    """Indexes of `sizes` (bytes), in batches that are each one request: first fit, the largest first.

    SQS bills each 64 KiB begun of a request, so few and full requests are the cheapest.
    """
    batches: list[list[int]] = []
    room: list[int] = []
    for index in sorted(range(len(sizes)), key=sizes.__getitem__, reverse=True):
        for at, batch in enumerate(batches):
            if len(batch) < BATCH and sizes[index] <= room[at]:
                batch.append(index)
                room[at] -= sizes[index]
                break
        else:
            batches.append([index])
            room.append(MAX_REQUEST - sizes[index])
    return batches


async def ensure_queue(sqs: Any, name: str, visibility: float) -> str:
    """The URL of a queue, made with its dead-letter queue where it is absent; one that is there stays as it is.

    `visibility` in seconds, rounded up.
    """
    with translated(f"queue {name}"):
        try:
            found = await sqs.get_queue_url(QueueName=name)
        except ClientError as error:
            if error_code(error) not in _ABSENT:
                raise
            dead = await sqs.create_queue(QueueName=f"{name}-dead", Attributes=_ATTRIBUTES)
            redrive = {"deadLetterTargetArn": await _arn(sqs, dead["QueueUrl"]), "maxReceiveCount": MAX_RECEIVES}
            attributes = {"VisibilityTimeout": str(math.ceil(visibility)), "RedrivePolicy": json.dumps(redrive)}
            found = await sqs.create_queue(QueueName=name, Attributes=_ATTRIBUTES | attributes)
    return str(found["QueueUrl"])


async def _arn(sqs: Any, url: str) -> str:
    reply = await sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])
    return str(reply["Attributes"]["QueueArn"])


async def _all(requests: Iterable[Coroutine[Any, Any, object]]) -> None:
    """Wait for every one. `Refused` only where all were refused: else something may be stored."""
    outcomes = await asyncio.gather(*requests, return_exceptions=True)
    errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    unknown = [error for error in errors if not isinstance(error, Refused)]
    if unknown:
        raise unknown[0]
    if errors:
        raise errors[0] if len(errors) == len(outcomes) else Unavailable(f"done in part: {errors[0]}")


def _item(index: int, entry: Outgoing) -> Item:
    item: Item = {"Id": str(index), "MessageBody": entry.body.decode()}
    if entry.group:
        item["MessageGroupId"] = entry.group
    if entry.delay > 0:
        item["DelaySeconds"] = math.ceil(entry.delay)
    return item


def _put_off(failure: Item) -> bool:
    return not failure["SenderFault"] or failure["Code"] in TRANSIENT


def _reason(failure: Item) -> str:
    return f"{failure['Code']}: {failure.get('Message', '')}"

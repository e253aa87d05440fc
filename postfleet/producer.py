"""For programs that hand mail over by the inbox queue.

    producer = Producer(queue_url, boto3.client("sqs"))
    producer.send([Handover(id="order-4711", transmission=Transmission(content=..., recipients=...))])

Nothing here is needed for it: an entry is JSON, and a plain SDK call puts it into the queue.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import suppress
from typing import Any, Literal, NamedTuple

import msgspec
from botocore.exceptions import BotoCoreError, ClientError
from msgspec import UNSET, Struct

from postfleet.handover import MAX_HANDOVER, Handover, S3Object, Transmission
from postfleet.ports import MAX_ENTRY

BATCH = 10
INLINE = 200 * 1024
"""Larger entries, bytes, go by S3 where there is a prefix to put them under."""
PAUSES = (0.2, 0.4, 0.8)
"""Seconds between attempts with entries that SQS could not take."""

_encode = msgspec.json.Encoder().encode


class NotHandedOver(Exception):
    """`failed` says why, by id; all others are in the queue. What is handed over again under its id is sent once."""

    def __init__(self, failed: Mapping[str, str]) -> None:
        some = ", ".join(f"{name} ({why})" for name, why in list(failed.items())[:3])
        more = f" and {len(failed) - 3} more" if len(failed) > 3 else ""
        super().__init__(f"not handed over: {some}{more}")
        self.failed = failed


class Target(Struct, frozen=True):
    queue_url: str
    prefix: str = ""
    """BUCKET/ or BUCKET/FOLDER/ that the operator of the platform has allowed this producer to refer to."""
    group: str = ""
    """Message group: of two producers in groups of their own neither waits behind the other's backlog."""


class Producer:
    """On boto3 clients; `s3` only with a prefix."""

    def __init__(self, target: Target, *, sqs: Any, s3: Any = None) -> None:
        self._target = target
        self._clients = {"sqs": sqs, "s3": s3}

    def send(self, entries: Iterable[Handover[Transmission]]) -> None:
        """Returns once all are in the queue. Raises `NotHandedOver`."""
        steps = _steps(self._target, entries)
        answer: _Answer = None
        with suppress(StopIteration):
            while True:
                answer = self._do(steps.send(answer))

    def _do(self, step: _Step) -> Any:
        if isinstance(step, float):
            time.sleep(step)
            return None
        try:
            return getattr(self._clients[step.service], step.operation)(**step.arguments)
        except (BotoCoreError, ClientError) as error:
            return error


class AsyncProducer:
    """On aiobotocore clients; `s3` only with a prefix."""

    def __init__(self, target: Target, *, sqs: Any, s3: Any = None) -> None:
        self._target = target
        self._clients = {"sqs": sqs, "s3": s3}

    async def send(self, entries: Iterable[Handover[Transmission]]) -> None:
        """Returns once all are in the queue. Raises `NotHandedOver`."""
        steps = _steps(self._target, entries)
        answer: _Answer = None
        with suppress(StopIteration):
            while True:
                answer = await self._do(steps.send(answer))

    async def _do(self, step: _Step) -> Any:
        if isinstance(step, float):
            await asyncio.sleep(step)
            return None
        try:
            return await getattr(self._clients[step.service], step.operation)(**step.arguments)
        except (BotoCoreError, ClientError) as error:
            return error


# ---------------------------------------------------------------- what both do


class _Call(NamedTuple):
    service: Literal["sqs", "s3"]
    operation: str
    arguments: Mapping[str, Any]


_Step = _Call | float
"""A call to make, or seconds to wait."""
_Answer = Mapping[str, Any] | Exception | None
_Steps = Generator[_Step, _Answer, None]


class _Body(NamedTuple):
    id: str
    body: bytes


def _steps(target: Target, entries: Iterable[Handover[Transmission]]) -> _Steps:
    """Raises `NotHandedOver` at the end."""
    sending = _Sending(target)
    for entry in entries:
        yield from sending.add(entry)
    yield from sending.flush()
    if sending.failed:
        raise NotHandedOver(sending.failed)


class _Sending:
    """Once a call fails as a whole, after the SDK's own repetitions, nothing more is tried."""

    def __init__(self, target: Target) -> None:
        self.failed: dict[str, str] = {}
        self._target = target
        self._batch: list[_Body] = []
        self._size = 0
        self._down = ""

    def add(self, entry: Handover[Transmission]) -> _Steps:
        body = _encode(entry)
        if len(body) > INLINE and self._target.prefix and not self._down:
            entry = yield from self._stored(entry)
            body = _encode(entry)
        if len(body) > MAX_HANDOVER:
            self.failed[entry.id] = f"{len(body)} bytes are over {MAX_HANDOVER}; name a prefix for it in Target"
            return
        if len(self._batch) == BATCH or self._size + len(body) > MAX_ENTRY:
            yield from self.flush()
        self._batch.append(_Body(entry.id, body))
        self._size += len(body)

    def _stored(self, entry: Handover[Transmission]) -> Generator[_Step, _Answer, Handover[Transmission]]:
        """The entry with a reference. The object is named after its content: a repeated put changes nothing."""
        content = _encode(entry.transmission)
        bucket, _, folder = self._target.prefix.partition("/")
        place = S3Object(bucket, f"{folder}{hashlib.sha256(content).hexdigest()}.json")
        answer = yield _Call("s3", "put_object", {"Bucket": bucket, "Key": place.key, "Body": content})
        if isinstance(answer, Exception):
            self._down = str(answer)
        return msgspec.structs.replace(entry, transmission=UNSET, transmission_in=place)

    def flush(self) -> _Steps:
        batch, self._batch, self._size = self._batch, [], 0
        if self._down:
            self.failed |= {each.id: f"not tried: {self._down}" for each in batch}
            return
        for pause in (0.0, *PAUSES):
            if not batch:
                return
            yield pause
            answer = yield _Call("sqs", "send_message_batch", _request(self._target, batch))
            batch = self._left(batch, answer)

    def _left(self, batch: list[_Body], answer: _Answer) -> list[_Body]:
        """Those that are worth another attempt."""
        if answer is None or isinstance(answer, Exception):
            self._down = str(answer)
            self.failed |= {each.id: self._down for each in batch}
            return []
        refusals = {int(refusal["Id"]): refusal for refusal in answer.get("Failed", ())}
        for number, each in enumerate(batch):
            self.failed.pop(each.id, None)
            if number in refusals:
                self.failed[each.id] = f"{refusals[number]['Code']}: {refusals[number].get('Message', '')}"
        return [batch[number] for number, refusal in refusals.items() if not refusal["SenderFault"]]


def _request(target: Target, batch: list[_Body]) -> dict[str, Any]:
    group = {"MessageGroupId": target.group} if target.group else {}
    entries = [{"Id": str(number), "MessageBody": each.body.decode(), **group} for number, each in enumerate(batch)]
    return {"QueueUrl": target.queue_url, "Entries": entries}

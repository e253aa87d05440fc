"""The inbox on SQS, its dead letters beside it, and S3 for what entries refer to."""

from __future__ import annotations

from typing import Any

import msgspec
from botocore.exceptions import ClientError

from postfleet.arrivals import DEAD, INBOX, Arrival, Reason, UnreadableObject
from postfleet.backends.aws_clients import AwsClients, error_code, translated
from postfleet.backends.aws_queue import ASK_FOR, AwsQueue, Item, read_entry
from postfleet.handover import MAX_HANDOVER, S3Object
from postfleet.ports import Received, TooLarge

_LONGEST = 1000
"""Characters of a dead letter's attribute; all of them stay within what `MAX_HANDOVER` leaves of SQS's limit."""
_UNREADABLE = frozenset(
    """
    403 404 AccessDenied AllAccessDisabled InvalidArgument InvalidBucketName InvalidObjectState MethodNotAllowed
    NoSuchBucket NoSuchKey NoSuchVersion NotFound PermanentRedirect
    """.split()
)


class AwsInbox:
    """The queues `<prefix>inbox` and `<prefix>inbox-dead`."""

    def __init__(self, clients: AwsClients, prefix: str, visibility: float) -> None:
        self.queue = AwsQueue(
            clients, prefix + INBOX, visibility, ask_for=(*ASK_FOR, "SenderId", "SentTimestamp"), read=_arrived
        )
        self._dead = prefix + DEAD
        self._dead_url = ""
        self._sqs = clients.sqs
        self._s3 = clients.s3

    async def bury(self, arrival: Arrival, reason: Reason) -> None:
        """What is over `MAX_HANDOVER` bytes is cut to that."""
        attributes = {
            "reason": reason.kind,
            "code": reason.code,
            "description": reason.description,
            "sender_id": arrival.sender_id,
            "message_id": arrival.message_id,
        }
        with translated(f"queue {self._dead}"):
            if not self._dead_url:
                self._dead_url = (await self._sqs.get_queue_url(QueueName=self._dead))["QueueUrl"]
            await self._sqs.send_message(
                QueueUrl=self._dead_url,
                MessageBody=arrival.body.encode()[:MAX_HANDOVER].decode(errors="ignore"),
                MessageAttributes={name: _attribute(text) for name, text in attributes.items() if text},
            )

    async def read(self, place: S3Object, most: int) -> bytes:
        name = f"{place.bucket}/{place.key}"
        with translated(name):
            reply = await self._get(place)
            async with reply["Body"] as body:
                if reply["ContentLength"] > most:
                    raise TooLarge(f"{name}: {reply['ContentLength']} bytes, more than {most}")
                content: bytes = await body.read()
        return content

    async def _get(self, place: S3Object) -> Item:
        version = {"VersionId": place.version_id} if place.version_id else {}
        try:
            reply: Item = await self._s3.get_object(Bucket=place.bucket, Key=place.key, **version)
        except ClientError as error:
            if (code := error_code(error)) in _UNREADABLE:
                said = error.response["Error"].get("Message", "")
                raise UnreadableObject(f"{place.bucket}/{place.key} cannot be read: {code}: {said}") from error
            raise
        return reply


def _arrived(message: Item) -> Received:
    attributes = message["Attributes"]
    arrival = Arrival(
        message_id=message["MessageId"],
        sender_id=attributes["SenderId"],
        sent_at=int(attributes["SentTimestamp"]) / 1000,
        receives=int(attributes["ApproximateReceiveCount"]),
        body=message["Body"],
    )
    return msgspec.structs.replace(read_entry(message), body=msgspec.json.encode(arrival))


def _attribute(text: str) -> dict[str, Any]:
    """SQS takes no control characters, and strangers choose what is quoted here."""
    shown = text[:_LONGEST].encode("ascii", "backslashreplace").decode()
    return {"DataType": "String", "StringValue": "".join(c if c.isprintable() else " " for c in shown)[:_LONGEST]}

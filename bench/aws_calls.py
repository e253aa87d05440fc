"""Which AWS requests a port call becomes, and what AWS counts of each. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from bench import prices
from postfleet.backends.aws_state import stored
from postfleet.ports import MAX_ENTRY, Outgoing, Received, Row

KB = 1024
SQS_BATCH = 10
SQS_CHUNK = 64 * KB
S3_PAGE = 1000
ITEM_OVERHEAD = 26
"""Bytes of a row beside its keys and body: names of attributes, version, write, expiry."""


class AwsCall(NamedTuple):
    """One request, and how much of what its price counts."""

    service: str
    operation: str
    price: str
    units: float

    @property
    def dollars(self) -> float:
        return prices.dollars(self.price, self.units)


# ---------------------------------------------------------------- SQS


def send_batches(entries: Sequence[Outgoing]) -> list[list[Outgoing]]:
    """As few requests as SQS takes: ten entries, and a megabyte, each."""
    batches: list[list[Outgoing]] = []
    size = 0
    for entry in entries:
        if not batches or len(batches[-1]) == SQS_BATCH or size + len(entry.body) > MAX_ENTRY:
            batches.append([])
            size = 0
        batches[-1].append(entry)
        size += len(entry.body)
    return batches


def send(batch: Sequence[Outgoing]) -> AwsCall:
    price = prices.SQS_FAIR if any(entry.group for entry in batch) else prices.SQS
    return AwsCall("sqs", "SendMessageBatch", price, _chunks(entry.body for entry in batch))


def receive(entries: Sequence[Received]) -> AwsCall:
    return AwsCall("sqs", "ReceiveMessage", prices.SQS, _chunks(entry.body for entry in entries))


def on_handles(operation: str, handles: Sequence[str]) -> list[AwsCall]:
    """`operation` is DeleteMessageBatch or ChangeMessageVisibilityBatch."""
    return [AwsCall("sqs", operation, prices.SQS, 1) for _ in range(0, len(handles), SQS_BATCH)]


def _chunks(bodies: Iterable[bytes]) -> int:
    return max(1, _steps(sum(map(len, bodies)), SQS_CHUNK))


# ---------------------------------------------------------------- S3


def put_object() -> AwsCall:
    return AwsCall("s3", "PutObject", prices.S3_WRITE, 1)


def get_object() -> AwsCall:
    return AwsCall("s3", "GetObject", prices.S3_READ, 1)


def list_objects(found: int) -> list[AwsCall]:
    return [AwsCall("s3", "ListObjectsV2", prices.S3_WRITE, 1) for _ in range(max(1, _steps(found, S3_PAGE)))]


def delete_objects(keys: Sequence[str]) -> list[AwsCall]:
    return [AwsCall("s3", "DeleteObjects", prices.FREE, 1) for _ in range(0, len(keys), S3_PAGE)]


# ---------------------------------------------------------------- DynamoDB


def item_size(partition: str, sort: str, body: bytes) -> int:
    return ITEM_OVERHEAD + len(partition) + len(sort) + len(stored(body)[1])


def put_item(size: int, size_before: int = 0) -> AwsCall:
    """The larger of the row before and after counts, also when the condition fails."""
    return AwsCall("dynamodb", "PutItem", prices.DYNAMODB_WRITE, max(1, _steps(max(size, size_before), KB)))


def delete_item(size: int) -> AwsCall:
    return AwsCall("dynamodb", "DeleteItem", prices.DYNAMODB_WRITE, max(1, _steps(size, KB)))


def update_item() -> AwsCall:
    return AwsCall("dynamodb", "UpdateItem", prices.DYNAMODB_WRITE, 1)


def get_item(size: int) -> AwsCall:
    return AwsCall("dynamodb", "GetItem", prices.DYNAMODB_READ, max(1, _steps(size, 4 * KB)))


def query(rows: Sequence[Row]) -> AwsCall:
    size = sum(item_size(row.partition, row.sort, row.body) for row in rows)
    return AwsCall("dynamodb", "Query", prices.DYNAMODB_READ, max(1, _steps(size, 4 * KB)))


def batch_get(rows: Sequence[Row], asked: int) -> list[AwsCall]:
    """Each row counts by itself, an absent one as the smallest."""
    units = [max(1, _steps(item_size(row.partition, row.sort, row.body), 4 * KB)) for row in rows]
    total = sum(units) + asked - len(rows)
    calls = max(1, _steps(asked, 100))
    return [AwsCall("dynamodb", "BatchGetItem", prices.DYNAMODB_READ, total / calls) for _ in range(calls)]


def _steps(amount: int, step: int) -> int:
    return -(-amount // step)

"""Public prices of AWS requests, us-east-1, on demand: SQS standard queues, S3 Standard, DynamoDB."""

from __future__ import annotations

from typing import Final

SQS: Final = "SQS request of 64 KB"
SQS_FAIR: Final = "SQS request of 64 KB with a MessageGroupId"
S3_WRITE: Final = "S3 PUT or LIST"
S3_READ: Final = "S3 GET or HEAD"
DYNAMODB_WRITE: Final = "DynamoDB KB written"
DYNAMODB_READ: Final = "DynamoDB 4 KB read"
FREE: Final = "free"

PER_MILLION = {
    SQS: 0.40,
    SQS_FAIR: 0.50,
    S3_WRITE: 5.00,
    S3_READ: 0.40,
    DYNAMODB_WRITE: 0.625,
    DYNAMODB_READ: 0.125,
    FREE: 0.0,
}
"""Dollars. Reads are strongly consistent."""


def dollars(price: str, units: float) -> float:
    return PER_MILLION[price] * units / 1e6

"""The bucket and the table as the stores expect them, where no template makes them. Everything here can be repeated."""

from __future__ import annotations

import math
import os
from typing import Any

from aiobotocore.session import get_session
from botocore.exceptions import ClientError

from postfleet.backends.aws_clients import error_code, translated
from postfleet.backends.aws_state import EXPIRES, PARTITION, SORT
from postfleet.ports import Refused
from postfleet.settings import DAY, Settings

_US_EAST_1 = "us-east-1"
"""The one region that must not be named as a bucket's place."""


def retention_days(settings: Settings) -> dict[str, int]:
    """Days that blobs are kept, by prefix. What has no entry is kept: the contents of failed messages.

    Mail is read until its last entry can have come back. Events are removed by reporting, as `event_retention` says;
    here only those go that it never saw.
    """
    redelivery = settings.row_retention
    kept = {"mail/": settings.message_lifetime + redelivery, "events/": settings.event_retention + redelivery}
    return {prefix: math.ceil(seconds / DAY) + 1 for prefix, seconds in kept.items()}


async def account_and_region() -> tuple[str, str]:
    """Whose credentials, and which region, this process's environment names."""
    doing = "asking AWS whose credentials these are"
    with translated(doing):
        session = get_session()
        region = os.environ.get("AWS_REGION") or session.get_config_variable("region")
        if not region:
            raise Refused(f"{doing}: no region: set AWS_REGION")
        async with session.create_client("sts", region_name=region) as sts:
            return (await sts.get_caller_identity())["Account"], region


async def ensure_bucket(s3: Any, bucket: str, settings: Settings) -> None:
    """Its lifecycle rules are replaced by ours."""
    with translated(f"bucket {bucket}"):
        await _create_bucket(s3, bucket)
        rules = [
            {"ID": prefix, "Status": "Enabled", "Filter": {"Prefix": prefix}, "Expiration": {"Days": days}}
            for prefix, days in retention_days(settings).items()
        ]
        await s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={"Rules": rules})


async def _create_bucket(s3: Any, bucket: str) -> None:
    region = s3.meta.region_name
    place = {} if region == _US_EAST_1 else {"CreateBucketConfiguration": {"LocationConstraint": region}}
    try:
        await s3.create_bucket(Bucket=bucket, **place)
    except ClientError as error:
        if error_code(error) != "BucketAlreadyOwnedByYou":
            raise


async def block_public_access(s3: Any, bucket: str) -> None:
    """An S3 that does not know how has nothing to block: SeaweedFS."""
    ways = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")
    with translated(f"bucket {bucket}"):
        try:
            await s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=dict.fromkeys(ways, True))
        except ClientError as error:
            if error_code(error) != "NotImplemented":
                raise


async def ensure_table(dynamodb: Any, table: str) -> None:
    """Billed by request; there when this returns."""
    with translated(f"table {table}"):
        try:
            await dynamodb.create_table(
                TableName=table,
                AttributeDefinitions=[{"AttributeName": name, "AttributeType": "S"} for name in (PARTITION, SORT)],
                KeySchema=[
                    {"AttributeName": PARTITION, "KeyType": "HASH"},
                    {"AttributeName": SORT, "KeyType": "RANGE"},
                ],
                BillingMode="PAY_PER_REQUEST",
            )
        except ClientError as error:
            if error_code(error) != "ResourceInUseException":
                raise
        await dynamodb.get_waiter("table_exists").wait(TableName=table, WaiterConfig={"Delay": 1, "MaxAttempts": 60})


async def ensure_expiry(dynamodb: Any, table: str) -> None:
    """Let DynamoDB drop the table's expired items, some day."""
    with translated(f"expiry of table {table}"):
        described = await dynamodb.describe_time_to_live(TableName=table)
        if described["TimeToLiveDescription"]["TimeToLiveStatus"] not in ("ENABLED", "ENABLING"):
            await dynamodb.update_time_to_live(
                TableName=table, TimeToLiveSpecification={"Enabled": True, "AttributeName": EXPIRES}
            )

from __future__ import annotations

from postfleet.backends.aws import create_missing, open_aws
from postfleet.backends.aws_clients import AwsClients
from postfleet.backends.aws_setup import retention_days
from postfleet.deployment import AwsPlaces
from postfleet.settings import DAY, Settings

PLACES = AwsPlaces(bucket="setup", table="setup", queue_prefix="setup-")


def test_mail_outlives_its_last_redelivery() -> None:
    """Lifetime of a message, then a queue's fourteen days; what failed is kept."""
    days = retention_days(Settings(message_lifetime=3 * DAY, row_retention=14 * DAY))
    assert days["mail/"] == 3 + 14 + 1
    assert days.keys() == {"mail/", "events/"}


async def test_what_is_missing_is_made_once(aws_clients: AwsClients) -> None:
    """Bucket, table and queues work after it, private and with their rules; a second time changes nothing."""
    for _ in range(2):
        await create_missing(PLACES, Settings(), ["units"])
    async with await open_aws(PLACES, visibility=60.0) as backends:
        await backends.blobs.put("mail/a", b"a")
        assert (await backends.state.put_if_absent("a", "", b"")).ok
        assert (await backends.queue("units").stats()).visible == 0
    rules = await aws_clients.s3.get_bucket_lifecycle_configuration(Bucket="setup")
    assert {rule["Filter"]["Prefix"] for rule in rules["Rules"]} == {"mail/", "events/"}
    access = await aws_clients.s3.get_public_access_block(Bucket="setup")
    assert all(access["PublicAccessBlockConfiguration"].values())
    expiry = await aws_clients.dynamodb.describe_time_to_live(TableName="setup")
    assert expiry["TimeToLiveDescription"] == {"TimeToLiveStatus": "ENABLED", "AttributeName": "e"}

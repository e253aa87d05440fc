"""The bucket and the table of the tests. Each test takes names of its own in them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest

from postfleet.backends.aws_clients import open_clients
from postfleet.backends.aws_setup import ensure_bucket, ensure_table
from postfleet.deployment import AwsPlaces
from postfleet.settings import Settings

PLACES = AwsPlaces(bucket="tests", table="tests", queue_prefix="tests-")


def make_places(variables: Mapping[str, str]) -> None:
    """What every engine has. For all that `create_missing` makes, see its own test."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        asyncio.run(_make())


async def _make() -> None:
    async with await open_clients() as clients:
        await ensure_bucket(clients.s3, PLACES.bucket, Settings())
        await ensure_table(clients.dynamodb, PLACES.table)

"""The one door to the stores of a platform: its deployment says whether they are on this machine or on AWS."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

from postfleet.arrivals import Inbox
from postfleet.backends.local import LocalBackends, open_local
from postfleet.clock import Clock
from postfleet.deployment import AwsPlaces, DataDir

if TYPE_CHECKING:
    from postfleet.backends.aws import AwsBackends

Stores: TypeAlias = "LocalBackends | AwsBackends"


async def open_stores(data: DataDir, clock: Clock) -> Stores:
    """As run.json and the settings say."""
    settings, places = data.settings(), data.deployment().aws
    if places is None:
        return await open_local(data.store, clock=clock, visibility=settings.visibility, reserve=settings.disk_reserve)
    from postfleet.backends.aws import open_aws  # the SDK is half a second of start-up that local platforms are spared

    enter(places)
    return await open_aws(places, visibility=settings.visibility)


def inbox_of(stores: Stores) -> Inbox | None:
    """The queue that producers write to; None on stores that have none."""
    return None if isinstance(stores, LocalBackends) else stores.inbox()


def enter(places: AwsPlaces) -> None:
    """Send the SDK of this process, and of those that it starts, where the platform's stores are.

    Of what this environment says of AWS nothing holds for the sandbox, and no endpoint for any.
    """
    if not places.variables:
        return
    gone = "AWS_" if places.sandbox else "AWS_ENDPOINT_URL"
    for name in [name for name in os.environ if name.startswith(gone)]:
        del os.environ[name]
    os.environ.update(places.variables)

"""Whether the stores on AWS make the requests that the meter says: the same platform in real time on an endpoint."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections import Counter
from collections.abc import Coroutine, Mapping
from contextlib import AsyncExitStack
from contextvars import copy_context
from typing import Any, NamedTuple, TypeVar

from msgspec.structs import replace

from bench.metered import Meter
from bench.metered_platform import SERVICES, SPEED_UP, Load, MeteredPlatform, QuietWorld, sooner
from postfleet.accept import UNITS
from postfleet.backends.aws import AwsBackends, create_missing, open_aws
from postfleet.deployment import AwsPlaces
from postfleet.events import EVENTS
from postfleet.providers import LANES
from postfleet.settings import Settings

T = TypeVar("T")

ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS")
STRAY = 0.03
"""Share of requests by which both counts may differ: what was under way when counting began and ended."""
STRAYS = 6
ROUNDS = 10
ONCE = frozenset({"GetQueueUrl"})
"""Requests of a process at its start, which no message causes."""


class Comparison(NamedTuple):
    operation: str
    metered: int
    observed: int

    @property
    def agrees(self) -> bool:
        return abs(self.metered - self.observed) <= STRAYS + STRAY * self.observed


class _LiveLoop(asyncio.SelectorEventLoop):
    """Real time where the simulation has its own."""

    outside = copy_context()

    def __init__(self) -> None:
        super().__init__()
        self._kept: set[asyncio.Task[Any]] = set()

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        """The loop alone holds tasks that wait for ever."""
        task: asyncio.Task[Any] = super().create_task(coro, **options)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)
        return task

    def run(self, main: Coroutine[Any, Any, T]) -> T:
        return self.run_until_complete(main)


class _LiveWorld(QuietWorld):
    def __init__(self) -> None:
        super().__init__()
        self.loop = _LiveLoop()  # type: ignore[assignment]


def compare(settings: Settings, load: Load, warm_up: float, seconds: float) -> list[Comparison]:
    """By operation. Raises `ValueError` unless the environment names an endpoint."""
    if not any(os.environ.get(name) for name in ENDPOINTS):
        raise ValueError(f"set {' or '.join(ENDPOINTS)} to an AWS-compatible endpoint that holds nothing of worth")
    world = _LiveWorld()
    settings = replace(settings, retry_first=settings.retry_first / SPEED_UP)
    with sooner():
        return world.run(_live(world, settings, load, warm_up, seconds))


async def _live(world: _LiveWorld, settings: Settings, load: Load, warm_up: float, seconds: float) -> list[Comparison]:
    name = f"cost-{secrets.token_hex(4)}"
    places = AwsPlaces(bucket=name, table=name, queue_prefix=f"{name}-")
    await create_missing(places, settings, [UNITS, EVENTS, *LANES])
    observed: Counter[str] = Counter()

    def observe(service: str, operation: str, sizes: Mapping[str, int]) -> None:
        if platform.meter.on:
            observed[operation] += sizes["attempts"]

    async with AsyncExitStack() as stack:
        stores: dict[str, AwsBackends] = {}
        for process in (*SERVICES, "control", "furniture"):
            opened = await open_aws(places, visibility=settings.visibility, observe=observe)
            stores[process] = await stack.enter_async_context(opened)
        platform = MeteredPlatform(world, settings, lambda process: stores[process.name], latency={})
        platform.stores = stores["furniture"]  # type: ignore[assignment]
        await platform.measure(load, warm_up, seconds)
        await _end_all()
    return _compared(platform.meter, observed)


async def _end_all() -> None:
    """As by a crash: what tasks would still do in the end is cancelled too."""
    for _ in range(ROUNDS):
        for task in asyncio.all_tasks() - {asyncio.current_task()}:
            task.cancel()
        await asyncio.sleep(0.1)


def _compared(meter: Meter, observed: Counter[str]) -> list[Comparison]:
    metered: Counter[str] = Counter()
    for line, count in meter.calls.items():
        metered[line.operation] += count
    names = sorted((metered.keys() | observed.keys()) - ONCE)
    return [Comparison(name, metered[name], observed[name]) for name in names]

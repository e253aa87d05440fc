"""`backends`: each implementation in turn. Tests wait by `asyncio.sleep`; in memory that time is virtual."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from support.aws_places import PLACES
from support.memory_backends import MemoryBackends

from postfleet.backends.aws import open_aws
from postfleet.backends.local import open_local
from postfleet.clock import SystemClock
from postfleet.ports import Backends, WorkQueue

VISIBILITY = 1.0
"""Seconds; short enough to wait for, and whole, since SQS counts in seconds."""

Opener = Callable[[Path], AbstractAsyncContextManager[Backends]]


class LoopClock:
    def now(self) -> float:
        return 1_800_000_000.0 + self.mono()

    def mono(self) -> float:
        return asyncio.get_running_loop().time()


@contextmanager
def virtual_time() -> Iterator[None]:
    """The running loop's time passes only when it has nothing else to do, and then at once."""
    loop = asyncio.get_running_loop()
    selector = loop._selector  # type: ignore[attr-defined]
    now, real_select, real_time = [0.0], selector.select, loop.time

    def select(timeout: float | None = None) -> object:
        now[0] += timeout or 0.0
        return real_select(0 if timeout is not None else None)

    now[0] = real_time()
    selector.select, loop.time = select, lambda: now[0]  # type: ignore[method-assign]
    yield
    selector.select, loop.time = real_select, real_time  # type: ignore[method-assign]


@asynccontextmanager
async def open_memory(directory: Path) -> AsyncIterator[Backends]:
    with virtual_time():
        yield MemoryBackends(LoopClock(), VISIBILITY)


@asynccontextmanager
async def open_on_disk(directory: Path) -> AsyncIterator[Backends]:
    async with await open_local(directory, clock=SystemClock(), visibility=VISIBILITY) as backends:
        yield backends


@asynccontextmanager
async def open_on_aws(directory: Path) -> AsyncIterator[Backends]:
    """On whatever the environment sends the SDK to."""
    async with await open_aws(PLACES, visibility=VISIBILITY) as backends:
        yield backends


OPENERS: dict[str, Opener] = {
    "local": open_on_disk,
    "memory": open_memory,
    "moto": open_on_aws,
    "engines": open_on_aws,
}
"""Those on AWS are also names of fixtures: the variables that send the SDK to the engine."""
NO_FAIR_QUEUES = "no fair queues: the message group of an entry on a standard queue has no effect"
STALE_HANDLES = "takes the handle of an earlier receive for that of the last one"
CANNOT: dict[tuple[str, str], str] = {
    ("moto", "test_a_quiet_group_does_not_wait_behind_a_noisy_one"): NO_FAIR_QUEUES,
    ("moto", "test_the_group_without_a_name_takes_its_turn"): NO_FAIR_QUEUES,
    ("moto", "test_a_stale_handle_acks_nothing"): STALE_HANDLES,
    ("moto", "test_a_stale_handle_releases_nothing"): STALE_HANDLES,
    ("moto", "test_a_stale_handle_extends_nothing"): STALE_HANDLES,
    ("moto", "test_rows_have_a_size_limit"): "counts the base64 of a body, a third more than DynamoDB does",
    ("engines", "test_list_is_in_key_order"): "SeaweedFS lists a folder's entries together, with what is below them",
    ("engines", "test_a_quiet_group_does_not_wait_behind_a_noisy_one"): NO_FAIR_QUEUES,
    ("engines", "test_the_group_without_a_name_takes_its_turn"): NO_FAIR_QUEUES,
}
"""(backend, test) -> what the engine behind it does wrong, so that the test fails there."""


@pytest.fixture(params=["local", "memory", "moto", pytest.param("engines", marks=pytest.mark.engines)])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    name = str(request.param)
    reason = CANNOT.get((name, request.node.originalname))
    if reason is not None:
        request.applymarker(pytest.mark.xfail(reason=reason, strict=True))
    if OPENERS[name] is open_on_aws:
        for variable, value in request.getfixturevalue(name).items():
            monkeypatch.setenv(variable, value)
    return name


@pytest.fixture
async def backends(backend: str, tmp_path: Path) -> AsyncIterator[Backends]:
    async with OPENERS[backend](tmp_path) as opened:
        yield opened


_numbers = itertools.count(1)


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    """A name for this test alone: a blob prefix, a partition or a queue."""
    return f"t{next(_numbers)}-{request.node.originalname.replace('_', '-')[:40]}"


@pytest.fixture
def queue(backends: Backends, unique: str) -> WorkQueue:
    return backends.queue(unique)

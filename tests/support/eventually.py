"""Waiting for what a real process or socket does in its own time."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def eventually(look: Callable[[], T], seconds: float = 5.0) -> T:
    """What `look` returns once that is true. Raises `TimeoutError`."""
    async with asyncio.timeout(seconds):
        while not (seen := look()):  # noqa: ASYNC110 - what is awaited is outside this loop
            await asyncio.sleep(0.005)
    return seen


def wait_for(look: Callable[[], T], seconds: float = 15.0) -> T:
    """The same for a test without a loop."""
    deadline = time.monotonic() + seconds
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {seconds:g} s")
        time.sleep(0.01)
    return seen

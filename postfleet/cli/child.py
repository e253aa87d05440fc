"""A platform as a child of this process: `postfleet up` on free ports."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from postfleet.cli.options import Failed
from postfleet.cli.supervisor import die_with_parent
from postfleet.deployment import DataDir

FREE = "127.0.0.1:0"
STOP_WITHIN = 60.0
"""Longer than `up` gives its services."""


@asynccontextmanager
async def running_platform(data: DataDir, *options: str) -> AsyncIterator[None]:
    """Up inside, stopped after. Raises `Failed` with the last line that `up` said where it does not come up."""
    addresses = (part for option in ("--http", "--smtp", "--sink") for part in (option, FREE))
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "postfleet.cli", "up", "--data", str(data.path), *addresses, *options),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGTERM),
    )
    assert process.stdout
    try:
        await _up(process.stdout)
        async with _read_on(process.stdout):
            yield
    finally:
        await asyncio.shield(_stop(process))


async def _up(said: asyncio.StreamReader) -> None:
    last = "it said nothing"
    async for line in said:
        last = line.decode(errors="replace").strip() or last
        if last.startswith("Postfleet is up"):
            return
    raise Failed(last)


@asynccontextmanager
async def _read_on(said: asyncio.StreamReader) -> AsyncIterator[None]:
    """Nobody waits for the rest, but a full pipe would stop who writes."""
    reading = asyncio.create_task(said.read())
    try:
        yield
    finally:
        reading.cancel()


async def _stop(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_WITHIN)
    except TimeoutError:
        process.kill()
        await process.wait()

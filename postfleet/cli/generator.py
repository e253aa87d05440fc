"""The sandbox's load generator, run as a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from postfleet.cli.options import Failed
from postfleet.cli.supervisor import die_with_parent


class Progress(Struct, frozen=True):
    """Messages so far, as the generator prints it."""

    ok: int = 0
    failed: int = 0
    indeterminate: int = 0
    seconds: float = 0.0

    @property
    def submitted(self) -> int:
        return self.ok + self.failed + self.indeterminate


async def generate(load: Mapping[str, object], log: Path, tell: Callable[[Progress], None]) -> Progress:
    """Submit `load`, the fields of a `sandbox.load.Load`; what the client knows is appended to `log`. The final count.

    Cancelled, it stops the generator, which logs what is under way as without an answer. Raises `Failed` when the
    generator does.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    command = (sys.executable, "-P", "-m", "sandbox.load", str(log))
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
        preexec_fn=die_with_parent(signal.SIGINT),
    )
    try:
        return await _watch(process, msgspec.json.encode(load), tell)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGINT)
        await process.wait()


async def _watch(process: asyncio.subprocess.Process, load: bytes, tell: Callable[[Progress], None]) -> Progress:
    assert process.stdin and process.stdout and process.stderr
    process.stdin.write(load)
    process.stdin.close()
    complaints = asyncio.create_task(process.stderr.read())
    progress = Progress()
    async for line in process.stdout:
        progress = msgspec.json.decode(line, type=Progress)
        tell(progress)
    said = (await complaints).decode(errors="replace").strip().splitlines()
    if await process.wait():
        raise Failed(f"the load generator ended: {said[-1] if said else process.returncode}")
    return progress

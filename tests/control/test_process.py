"""The control service as a process."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from postfleet.backends.local import open_local
from postfleet.clock import SystemClock
from postfleet.deployment import DataDir, Deployment, ProxySite
from postfleet.directory import BINDINGS, Binding, load_all, store

ROOT = Path(__file__).parents[2]
REPORT = b'HTTP/1.1 200 OK\r\n\r\n{"sources":[{"public":"192.0.2.1","bindable":true}],"draining":false}'


async def test_control_writes_who_owns_a_binding_and_stops_on_a_signal(
    tmp_path: Path, serve: Callable[[bytes | None], Awaitable[str]]
) -> None:
    """From the deployment's file to the row in the store, and exit 0 on SIGTERM."""
    data = DataDir(tmp_path)
    site = ProxySite("p", "127.0.0.1:1080", await serve(REPORT), ("192.0.2.1",))
    deployment = Deployment(http="127.0.0.1:1", smtp="127.0.0.1:2", proxies=(site,))
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(deployment))
    async with await open_local(data.store, clock=SystemClock(), visibility=60) as backends:
        await store(backends.state, BINDINGS, "one", Binding("one", "192.0.2.1", "mx.example"))
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "control", "--data", str(tmp_path), cwd=ROOT, env={"PYTHONPATH": str(ROOT)}
        )
        try:
            async with asyncio.timeout(10):
                while not (await load_all(backends.state, BINDINGS, Binding))["one"].alive:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
            process.send_signal(signal.SIGTERM)
            assert await asyncio.wait_for(process.wait(), 5) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

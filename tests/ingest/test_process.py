from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import msgspec
import pytest
from support.api import request

from postfleet.accept import UNITS
from postfleet.backends.local import open_local
from postfleet.clock import SystemClock
from postfleet.deployment import DataDir, Deployment
from postfleet.directory import API_KEYS, DOMAINS, SendingDomain, new_api_key, store
from postfleet.stages import decode_unit_entry

KEY, KEY_RECORD = new_api_key(0)
ROOT = Path(__file__).parents[2]


def free_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return f"127.0.0.1:{probe.getsockname()[1]}"


@pytest.fixture
async def data(tmp_path: Path) -> DataDir:
    made = DataDir(tmp_path)
    deployment = Deployment(http=free_address(), smtp=free_address(), proxies=(), sending_domain="shop.example")
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(deployment))
    async with await open_local(made.store, clock=SystemClock(), visibility=60.0) as backends:
        await store(backends.state, API_KEYS, KEY_RECORD.prefix, KEY_RECORD)
        await store(backends.state, DOMAINS, "example.com", SendingDomain("example.com", 0, True, "b.example.com"))
    return made


async def start(data: DataDir) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "ingest", "--data", str(data.path),
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip


@pytest.fixture
async def process(data: DataDir) -> AsyncIterator[asyncio.subprocess.Process]:
    made = await start(data)
    yield made
    if made.returncode is None:
        made.kill()
    await made.communicate()


async def listening(process: asyncio.subprocess.Process) -> None:
    assert process.stderr is not None
    async for line in process.stderr:
        if b"smtp_listening" in line:
            return
    raise AssertionError("ingest did not start")


async def test_accepts_over_both_protocols_and_stops(data: DataDir, process: asyncio.subprocess.Process) -> None:
    """The process serves HTTP and SMTP, what it accepted is on the queue, and SIGTERM ends it with 0."""
    await listening(process)
    deployment = data.deployment()
    async with httpx.AsyncClient(base_url=f"http://{deployment.http}", headers={"Authorization": KEY}) as http:
        assert (await http.get("/healthz")).status_code == 200
        response = await http.post("/api/v1/transmissions", json=request())
        keyed = await http.post("/api/v1/transmissions", json=request(), headers={"Idempotency-Key": "k"})
        again = await http.post("/api/v1/transmissions", json=request(), headers={"Idempotency-Key": "k"})
    assert response.status_code == keyed.status_code == 200 and keyed.json() == again.json()
    host, _, port = deployment.smtp.rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    assert (await reader.readline()).startswith(b"220 ")
    process.send_signal(signal.SIGTERM)
    assert (await reader.readline()).startswith(b"421 ")
    writer.close()
    assert await process.wait() == 0
    async with await open_local(data.store, clock=SystemClock(), visibility=60.0) as backends:
        received = await backends.queue(UNITS).receive(10, 1.0)
    ids = [
        group.transmission.id
        for each in received
        for unit in decode_unit_entry(each.body).units
        for group in unit.groups
    ]
    assert sorted(ids) == sorted(answer.json()["results"]["id"] for answer in (response, keyed))


@pytest.mark.parametrize("option", ["http", "smtp"])
async def test_port_taken(data: DataDir, option: str) -> None:
    """A taken address is one line that names it and how to change it, and exit 2."""
    address = getattr(data.deployment(), option)
    host, _, port = address.rpartition(":")
    with socket.create_server((host, int(port))):
        process = await start(data)
        _, errors = await process.communicate()
    assert process.returncode == 2
    said = f"ingest: cannot listen on {address} (Address already in use); "
    assert errors.decode() == said + f"choose another with `postfleet up --{option} HOST:PORT`\n"

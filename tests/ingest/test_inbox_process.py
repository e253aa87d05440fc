from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import msgspec
import pytest
from support.engines import free_ports

from postfleet.accept import UNITS
from postfleet.arrivals import INBOX
from postfleet.backends.aws import AwsBackends, create_missing, open_aws
from postfleet.deployment import AwsPlaces, Deployment
from postfleet.directory import DOMAINS, SendingDomain, store
from postfleet.settings import Settings
from postfleet.stages import Transmission, decode_unit_entry

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/producer_raw_boto3.py"
SENDER = "AIDAIT2UOQQY3AUEKVGXU"
"""Who sends everything, says moto."""
COUNT = 12


@pytest.fixture
def places(moto: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> AwsPlaces:
    for variable, value in moto.items():
        monkeypatch.setenv(variable, value)
    name = f"inbox-{random.getrandbits(32)}"
    return AwsPlaces(bucket=name, table=name, queue_prefix=f"{name}-")


@pytest.fixture
async def backends(places: AwsPlaces) -> AsyncIterator[AwsBackends]:
    await create_missing(places, Settings(), [UNITS, INBOX])
    async with await open_aws(places, visibility=60.0) as opened:
        await store(opened.state, DOMAINS, "shop.example", SendingDomain("shop.example", 7, True, "b.shop.example"))
        yield opened


@pytest.fixture
async def ingest(places: AwsPlaces, backends: AwsBackends, tmp_path: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    http, smtp = (f"127.0.0.1:{port}" for port in free_ports(2))
    deployment = Deployment(http=http, smtp=smtp, proxies=(), sending_domain="shop.example", aws=places)
    (tmp_path / "run.json").write_bytes(msgspec.json.encode(deployment))
    (tmp_path / "producers.toml").write_text(f'[[producer]]\nid = "{SENDER}"\ntenant = 7\n')
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "ingest", "--data", str(tmp_path),
        stderr=asyncio.subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    yield process
    if process.returncode is None:
        process.kill()
    await process.communicate()


async def run_example(queue: str) -> list[str]:
    """The lines that it prints."""
    example = await asyncio.create_subprocess_exec(
        sys.executable, str(EXAMPLE), "--queue", queue, "--count", str(COUNT), "--run", "r",
        "--from", "news@shop.example", "--to-domain", "example.org", stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await example.communicate()
    assert example.returncode == 0
    return output.decode().splitlines()


async def emptied(backends: AwsBackends) -> None:
    async with asyncio.timeout(60):
        while (stats := await backends.queue(INBOX).stats()).visible + stats.in_flight:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def accepted(backends: AwsBackends) -> list[Transmission]:
    found: list[Transmission] = []
    while received := await backends.queue(UNITS).receive(10, 0.0):
        entries = [decode_unit_entry(each.body) for each in received]
        found += [group.transmission for entry in entries for unit in entry.units for group in unit.groups]
    return found


async def test_a_producer_with_nothing_of_ours(
    places: AwsPlaces, backends: AwsBackends, ingest: asyncio.subprocess.Process
) -> None:
    """What the example hands over, and over again, the process accepts once, for the sender's tenant."""
    for _ in range(2):
        lines = await run_example(places.queue_prefix + INBOX)
        assert lines == [f"r-{number} user{number}@example.org" for number in range(COUNT)]
        await emptied(backends)
    transmissions = await accepted(backends)
    assert len(transmissions) == len({each.id for each in transmissions}) == COUNT
    assert {(each.tenant, each.method) for each in transmissions} == {(7, "sqs")}
    ingest.send_signal(signal.SIGTERM)
    assert await ingest.wait() == 0

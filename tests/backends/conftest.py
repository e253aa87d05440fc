from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest
from support.fault_proxy import FaultProxy, fault_proxy

from postfleet.backends.aws_clients import AwsClients, open_clients
from postfleet.backends.local import LocalBackends, open_local
from postfleet.clock import SystemClock


@pytest.fixture
async def local(tmp_path: Path) -> AsyncIterator[LocalBackends]:
    async with await open_local(tmp_path, clock=SystemClock(), visibility=30.0) as backends:
        yield backends


@pytest.fixture
async def proxy(moto: Mapping[str, str], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FaultProxy]:
    """In front of moto; the SDK's clients that a test opens go through it."""
    for name, value in moto.items():
        monkeypatch.setenv(name, value)
    async with fault_proxy(moto["AWS_ENDPOINT_URL"]) as opened:
        monkeypatch.setenv("AWS_ENDPOINT_URL", opened.url)
        yield opened


@pytest.fixture
async def aws_clients(proxy: FaultProxy) -> AsyncIterator[AwsClients]:
    async with await open_clients() as clients:
        yield clients


@pytest.fixture
def unique(request: pytest.FixtureRequest) -> str:
    """A blob prefix, or a partition, of this test alone."""
    return str(request.node.name)

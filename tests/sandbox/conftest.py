from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from support.eventually import eventually

from postfleet.evidence import LedgerConnection, LedgerMessage, LedgerPeak, LedgerRecord, read_ledger
from sandbox.behaviour import Behaviours
from sandbox.inbox import Inbox
from sandbox.ledger import Ledger
from sandbox.sink import Sink

HOST = "127.0.0.1"


class RunningSink:
    """A sink on a free port, and what its ledger says."""

    def __init__(self, folder: Path, behaviours: Behaviours, limit: int, idle_timeout: float) -> None:
        self.path = folder / "ledger"
        self.inbox = folder / "inbox"
        self._ledger = Ledger(self.path)
        self._sink = Sink(
            behaviours,
            self._ledger,
            Inbox(self.inbox),
            site_of={HOST: "site"},
            limits={"site": limit},
            idle_timeout=idle_timeout,
        )

    async def __aenter__(self) -> RunningSink:
        self._server = await self._sink.listen([HOST], 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        self._sweep = asyncio.create_task(self._sink.sweep())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._sweep.cancel()
        self._server.close()
        self._sink.close()
        await self._server.wait_closed()
        self._ledger.close()

    def records(self) -> list[LedgerRecord]:
        return list(read_ledger(self.path.read_bytes().splitlines(keepends=True)))

    def messages(self) -> list[LedgerMessage]:
        return [record for record in self.records() if isinstance(record, LedgerMessage)]

    def peaks(self) -> list[int]:
        return [record.connections for record in self.records() if isinstance(record, LedgerPeak)]

    async def ends(self, count: int = 1) -> list[str]:
        """How the first connections ended, once they have."""
        return await eventually(lambda: found if len(found := self._ends()) >= count else [])

    def _ends(self) -> list[str]:
        return [record.end for record in self.records() if isinstance(record, LedgerConnection)]


StartSink = Callable[..., Awaitable[RunningSink]]


@pytest.fixture
async def start_sink(tmp_path: Path) -> AsyncIterator[StartSink]:
    async with AsyncExitStack() as stack:

        async def start(
            behaviours: Behaviours | None = None, limit: int = 100, idle_timeout: float = 60.0
        ) -> RunningSink:
            return await stack.enter_async_context(
                RunningSink(tmp_path, behaviours or Behaviours(), limit, idle_timeout)
            )

        yield start

"""Ingest as one process: both servers, the inbox, the directory they ask, start and orderly stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator

import structlog
import uvicorn
from starlette.applications import Starlette

from ingest.inbox import InboxConsumer
from ingest.smtp import SmtpServer
from postfleet.deployment import split_address
from postfleet.directory import Directory
from postfleet.ports import StorageError

log = structlog.get_logger()

REFRESH = 1.0
"""Seconds between snapshots of the directory."""
GRACE = 30.0
"""Seconds that requests and sessions under way have for finishing."""
BACKLOG = 1024


class AddressTaken(ValueError):
    """One line that names the address and how to change it."""

    def __init__(self, option: str, address: str, error: OSError) -> None:
        reason = os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
        super().__init__(
            f"cannot listen on {address} ({reason}); choose another with `postfleet up --{option} HOST:PORT`"
        )


class HttpServer(uvicorn.Server):
    """Serves an application on a socket that listens already; whoever runs it sees to signals."""

    def __init__(self, app: Starlette, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http="httptools",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                proxy_headers=False,
                server_header=False,
                backlog=BACKLOG,
                timeout_graceful_shutdown=int(GRACE),
            )
        )
        self._listener = listener

    async def run_until_stopped(self) -> None:
        await self.serve([self._listener])

    def stop(self) -> None:
        self.should_exit = True

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def open_http_listener(address: str) -> socket.socket:
    """Raises `AddressTaken`."""
    host, port = split_address(address)
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise AddressTaken("http", address, error) from None


class Ingest:
    def __init__(
        self,
        *,
        directory: Directory,
        smtp: SmtpServer,
        smtp_address: str,
        http: HttpServer,
        inbox: InboxConsumer | None = None,
    ) -> None:
        self._directory = directory
        self._smtp = smtp
        self._smtp_address = smtp_address
        self._http = http
        self._inbox = inbox
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Until `stop`, or until a part of it fails; then what is under way is finished first."""
        await self._directory.refresh()
        await self._start_smtp()
        servers = [asyncio.create_task(self._http.run_until_stopped())]
        if self._inbox is not None:
            servers.append(asyncio.create_task(self._inbox.run()))
        freshness = asyncio.create_task(self._keep_fresh())
        stopping = asyncio.create_task(self._stopping.wait())
        done, _ = await asyncio.wait({*servers, freshness, stopping}, return_when=asyncio.FIRST_COMPLETED)
        self._http.stop()
        if self._inbox is not None:
            self._inbox.stop()
        await asyncio.gather(*servers, self._smtp.stop(GRACE))
        freshness.cancel()
        for task in done:
            task.result()

    def stop(self) -> None:
        self._stopping.set()

    async def _start_smtp(self) -> None:
        host, port = split_address(self._smtp_address)
        try:
            await self._smtp.start(host, port)
        except OSError as error:
            raise AddressTaken("smtp", self._smtp_address, error) from None

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(REFRESH)
            try:
                await self._directory.refresh()
            except StorageError as error:
                log.warning("snapshot_not_renewed", error=str(error))

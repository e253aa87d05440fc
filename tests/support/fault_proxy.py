"""An HTTP proxy in front of an engine that loses replies and answers in its place, as the network and AWS do."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from urllib.parse import urlsplit


class Request(NamedTuple):
    head: bytes
    body: bytes

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()

    @property
    def path(self) -> str:
        return self.head.split(b" ", 2)[1].decode()

    def header(self, name: str) -> str:
        """Empty where there is none."""
        lines = (line.partition(b":") for line in self.head.split(b"\r\n")[1:])
        return next((value.strip().decode() for key, _, value in lines if key.decode().lower() == name.lower()), "")

    @property
    def operation(self) -> str:
        """Of DynamoDB and SQS: `PutItem`."""
        return self.header("X-Amz-Target").rpartition(".")[2]

    @property
    def json(self) -> Any:
        return json.loads(self.body)


Matches = Callable[[Request], bool]
Answer = Callable[[Request], bytes]


def reply(status: int, body: bytes, content_type: str = "application/x-amz-json-1.0") -> bytes:
    head = f"HTTP/1.1 {status} Fault\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
    return head.encode() + b"Connection: close\r\n\r\n" + body


def json_error(status: int, code: str) -> Answer:
    """An error of DynamoDB or SQS."""
    return lambda request: reply(
        status, json.dumps({"__type": f"com.amazonaws#{code}", "message": "by proxy"}).encode()
    )


def s3_error(status: int, code: str) -> Answer:
    body = f"<Error><Code>{code}</Code><Message>by proxy</Message></Error>"
    return lambda request: reply(status, body.encode(), "application/xml")


@dataclass
class FaultProxy:
    upstream: str
    url: str = ""
    seen: list[Request] = field(default_factory=list)
    serving: set[asyncio.Task[None]] = field(default_factory=set)
    _faults: list[tuple[Matches, Answer | None]] = field(default_factory=list)

    def lose_reply(self, matches: Matches) -> None:
        """The next request that matches takes effect, and its connection ends without a reply."""
        self._faults.append((matches, None))

    def answer(self, matches: Matches, answer: Answer) -> None:
        """The next request that matches is answered here and never gets to the engine."""
        self._faults.append((matches, answer))

    def count(self, matches: Matches) -> int:
        """How many such requests came."""
        return sum(map(matches, self.seen))

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self.serving.add(task)
        task.add_done_callback(self.serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One request a connection."""
        try:
            writer.write(await self._reply(await _read(reader, writer)))
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    async def _reply(self, request: Request) -> bytes:
        self.seen.append(request)
        fault = next((fault for fault in self._faults if fault[0](request)), None)
        if fault is None:
            return await self._forward(request)
        self._faults.remove(fault)
        if fault[1] is not None:
            return fault[1](request)
        await self._forward(request)
        return b""

    async def _forward(self, request: Request) -> bytes:
        place = urlsplit(self.upstream)
        reader, writer = await asyncio.open_connection(place.hostname, place.port)
        first, *headers = request.head.split(b"\r\n")
        asked = [line for line in headers if not line.lower().startswith(b"expect:")]
        writer.write(b"\r\n".join([first, b"Connection: close", *asked]) + request.body)
        try:
            return await reader.read(-1)
        finally:
            writer.close()


async def _read(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    request = Request(await reader.readuntil(b"\r\n\r\n"), b"")
    if request.header("Expect"):
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    return request._replace(body=await reader.readexactly(int(request.header("Content-Length") or 0)))


@asynccontextmanager
async def fault_proxy(upstream: str) -> AsyncIterator[FaultProxy]:
    proxy = FaultProxy(upstream)
    server = await asyncio.start_server(proxy.accept, "127.0.0.1", 0, limit=2**20)
    host, port = server.sockets[0].getsockname()
    proxy.url = f"http://{host}:{port}"
    try:
        yield proxy
    finally:
        server.close()
        for task in proxy.serving:
            task.cancel()
        await asyncio.gather(*proxy.serving, return_exceptions=True)

"""`GET /healthz`: the addresses that can really be bound, and the counts."""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import cast

import msgspec
from msgspec import Struct

import postfleet
from ip_proxy.dial import is_bindable
from ip_proxy.proxy import Proxy

_LONGEST_REQUEST = 8192
_PATIENCE = 5.0


class SourceHealth(Struct, frozen=True):
    public: str
    local: str
    bindable: bool
    open: int
    accepted: int
    timed_out: int
    refused: dict[str, int]
    bytes_to_target: int
    bytes_to_client: int


class Health(Struct, frozen=True):
    """`status` is `ok`, or `degraded` when a source cannot be bound; `rejected` counts handshakes that named none;
    `inherited` counts connections that are open at the proxies before this one."""

    status: str
    version: str
    draining: bool
    open: int
    inherited: int
    sessions: int
    rejected: int
    sources: list[SourceHealth]


def examine(proxy: Proxy) -> Health:
    sources = [_examine_source(proxy, public, local) for public, local in proxy.access.sources.items()]
    return Health(
        status="ok" if all(source.bindable for source in sources) else "degraded",
        version=postfleet.__version__,
        draining=proxy.draining,
        open=sum(source.open for source in sources),
        inherited=sum(predecessor.open for predecessor in proxy.predecessors),
        sessions=len(proxy.sessions),
        rejected=proxy.rejected,
        sources=sources,
    )


def _examine_source(proxy: Proxy, public: str, local: str) -> SourceHealth:
    stats = proxy.stats[public]
    return SourceHealth(
        public=public,
        local=local,
        bindable=is_bindable(local),
        open=stats.open,
        accepted=stats.accepted,
        timed_out=stats.timed_out,
        refused=dict(stats.refused),
        bytes_to_target=stats.bytes_to_target,
        bytes_to_client=stats.bytes_to_client,
    )


class HealthProtocol(asyncio.Protocol):
    """One request, one answer, close."""

    def __init__(self, proxy: Proxy) -> None:
        self._proxy = proxy
        self._request = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._deadline = asyncio.get_running_loop().call_later(_PATIENCE, self._transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        self._deadline.cancel()

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        self._request += data
        if len(self._request) > _LONGEST_REQUEST:
            self._answer(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
        elif b"\r\n\r\n" in self._request:
            self._route(self._request.split(b"\r\n", 1)[0].split(b" "))

    def _route(self, request_line: list[bytes]) -> None:
        match request_line:
            case [b"GET", b"/healthz", _]:
                self._answer(HTTPStatus.OK, msgspec.json.encode(examine(self._proxy)))
            case [b"GET", _, _]:
                self._answer(HTTPStatus.NOT_FOUND)
            case [_, _, _]:
                self._answer(HTTPStatus.METHOD_NOT_ALLOWED)
            case _:
                self._answer(HTTPStatus.BAD_REQUEST)

    def _answer(self, status: HTTPStatus, body: bytes = b"{}") -> None:
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "Content-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Connection: close\r\n\r\n"
        )
        self._transport.write(head.encode() + body)
        self._transport.close()

"""One `GET /healthz`."""

from __future__ import annotations

import asyncio

import msgspec

from control.ownership import Report
from postfleet.deployment import split_address

LONGEST_ANSWER = 1024 * 1024
_decode = msgspec.json.Decoder(Report).decode


async def probe(health: str, timeout: float) -> Report | str:
    """What the proxy at `health` (host:port) reports, or in words why there is no report."""
    try:
        async with asyncio.timeout(timeout):
            head, _, body = (await _fetch(*split_address(health))).partition(b"\r\n\r\n")
    except TimeoutError:
        return f"{health}: no answer within {timeout:g} s"
    except (OSError, ValueError) as error:
        return f"{health}: {error}"
    if not head.startswith((b"HTTP/1.1 200 ", b"HTTP/1.0 200 ")):
        return f"{health}: {head[:60].decode('ascii', 'replace').partition(chr(13))[0] or 'empty answer'}"
    try:
        return _decode(body)
    except msgspec.DecodeError as error:
        return f"{health}: {error}"


async def _fetch(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port, limit=LONGEST_ANSWER)
    try:
        writer.write(f"GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        return await _read_all(reader)
    finally:
        writer.close()


async def _read_all(reader: asyncio.StreamReader) -> bytes:
    answer = bytearray()
    while data := await reader.read(65536):
        answer += data
        if len(answer) > LONGEST_ANSWER:
            raise ValueError(f"answer longer than {LONGEST_ANSWER} bytes")
    return bytes(answer)

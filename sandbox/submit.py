"""Clients of the load generator, which know exactly what they know: accepted, refused, or no answer."""

from __future__ import annotations

import asyncio
import re
from base64 import b64encode
from collections.abc import Sequence
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Protocol

import httptools
import msgspec
from msgspec import Struct

from postfleet.evidence import FAILED, INDETERMINATE, OK
from postfleet.smtp.framing import stuff, terminator_after
from postfleet.smtp.replies import BadReply, Reply, ReplyReader

ANSWER_TIMEOUT = 120.0
CONNECT_TIMEOUT = 10.0
USER = "SMTP_Injection"

_TRANSMISSION = re.compile(r"\b[0-9]{15,}\b")


class Draft(Struct, frozen=True):
    """One submission to make."""

    sender: str
    recipients: tuple[str, ...]
    subject: str
    text: str
    campaign: str = ""
    pool: str = ""


class Answered(Struct, frozen=True):
    """`status` as in `HandOver`."""

    status: str
    detail: str
    transmission: str = ""


class NotSent(Exception):
    """The server was not asked to accept anything: trying again cannot make a second copy."""


class Client(Protocol):
    async def submit(self, draft: Draft) -> Answered:
        """Raises `NotSent`; the next call then makes a new connection."""
        ...

    def close(self) -> None: ...


class _Connection:
    """A stream that is opened when needed and forgotten when lost."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    @property
    def is_open(self) -> bool:
        return self._streams is not None and not self._streams[0].at_eof()

    async def open(self) -> None:
        self.close()
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                self._streams = await asyncio.open_connection(*self._address)
        except (OSError, TimeoutError) as error:
            raise NotSent(f"cannot connect to {self._address[0]}:{self._address[1]}: {error}") from None

    def write(self, data: bytes) -> None:
        if self._streams is not None:
            self._streams[1].write(data)

    async def read(self) -> bytes:
        """Some bytes. Raises `ConnectionError` when there will be none."""
        if self._streams is None:
            raise ConnectionError("not connected")
        async with asyncio.timeout(ANSWER_TIMEOUT):
            data = await self._streams[0].read(65536)
        if not data:
            raise ConnectionError("connection closed by the server")
        return data

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


class HttpClient:
    """`POST /api/v1/transmissions` over one kept connection."""

    def __init__(self, host: str, port: int, key: str) -> None:
        self._connection = _Connection(host, port)
        self._head = (
            f"POST /api/v1/transmissions HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: {key}\r\n"
            "Content-Type: application/json\r\nContent-Length: "
        )

    async def submit(self, draft: Draft) -> Answered:
        body = _transmission(draft)
        if not self._connection.is_open:
            await self._connection.open()
        try:
            self._connection.write(f"{self._head}{len(body)}\r\n\r\n".encode() + body)
            response = await self._response()
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            self._connection.close()
            return Answered(INDETERMINATE, f"no answer: {error!r}")
        return _judge_response(response)

    async def _response(self) -> _Response:
        response = _Response()
        while not response.complete:
            response.feed(await self._connection.read())
        if not response.keep_alive:
            self._connection.close()
        return response

    def close(self) -> None:
        self._connection.close()


class _Response:
    """One HTTP response, collected."""

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.body = b""
        self.complete = False

    def feed(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.status: int = self._parser.get_status_code()
        self.keep_alive: bool = self._parser.should_keep_alive()
        self.complete = True


class _Results(Struct, frozen=True):
    id: str = ""


class _Body(Struct, frozen=True):
    results: _Results = _Results()


def _judge_response(response: _Response) -> Answered:
    """A server error (5xx) says that the server does not know either."""
    detail = f"{response.status} {response.body[:200].decode(errors='replace')}"
    if response.status == 200:
        return Answered(OK, "200", _id_of(response.body))
    return Answered(INDETERMINATE if response.status >= 500 else FAILED, detail)


def _id_of(body: bytes) -> str:
    try:
        return msgspec.json.decode(body, type=_Body).results.id
    except msgspec.DecodeError:
        return ""


def _transmission(draft: Draft) -> bytes:
    return msgspec.json.encode(
        {
            "options": {"ip_pool": draft.pool} if draft.pool else {},
            "campaign_id": draft.campaign,
            "recipients": [{"address": {"email": recipient}} for recipient in draft.recipients],
            "content": {"from": draft.sender, "subject": draft.subject, "text": draft.text},
        }
    )


class SmtpClient:
    """SMTP over one kept connection, with AUTH PLAIN (RFC 4616) where there is a key; envelopes are pipelined."""

    def __init__(self, host: str, port: int, key: str = "") -> None:
        self._connection = _Connection(host, port)
        self._credentials = f"\0{USER}\0{key}" if key else ""
        self._replies = ReplyReader()

    async def submit(self, draft: Draft) -> Answered:
        try:
            refusal = await self._envelope(draft)
        except (OSError, TimeoutError, BadReply) as error:
            self._connection.close()
            raise NotSent(f"connection lost before the final dot: {error!r}") from None
        if refusal is not None:
            return Answered(FAILED, str(refusal))
        data = _message(draft)
        try:
            self._connection.write(stuff(data) + terminator_after(data))
            return _judge_reply(await self._reply())
        except (OSError, TimeoutError, BadReply) as error:
            self._connection.close()
            return Answered(INDETERMINATE, f"no answer: {error!r}")

    async def _envelope(self, draft: Draft) -> Reply | None:
        """Up to the 354. The reply that refused, if one did."""
        if not self._connection.is_open:
            await self._greet()
        commands = [f"MAIL FROM:<{draft.sender}>", *(f"RCPT TO:<{recipient}>" for recipient in draft.recipients)]
        replies = await self._command(*commands)
        refusal = next((reply for reply in replies if not reply.positive), None)
        if refusal is None:
            (refusal,) = await self._command("DATA")
            return None if refusal.code == 354 else refusal
        await self._command("RSET")
        return refusal

    async def _greet(self) -> None:
        await self._connection.open()
        self._replies = ReplyReader()
        replies = [await self._reply(), *await self._command("EHLO load.postfleet.example")]
        if self._credentials:
            replies += await self._command(f"AUTH PLAIN {b64encode(self._credentials.encode()).decode()}")
        for reply in replies:
            if not reply.positive:
                raise ConnectionError(str(reply))

    async def _command(self, *lines: str) -> Sequence[Reply]:
        self._connection.write("".join(f"{line}\r\n" for line in lines).encode())
        return [await self._reply() for _ in lines]

    async def _reply(self) -> Reply:
        while (reply := self._replies.next_reply()) is None:
            self._replies.feed(await self._connection.read())
        if reply.code == 421:
            self._connection.close()
        return reply

    def close(self) -> None:
        self._connection.write(b"QUIT\r\n")
        self._connection.close()


def _judge_reply(reply: Reply) -> Answered:
    """421 and 451 after the final dot say that the server does not know either; all other refusals are firm."""
    if reply.positive:
        found = _TRANSMISSION.search(reply.text)
        return Answered(OK, str(reply), found[0] if found else "")
    return Answered(INDETERMINATE if reply.code in (421, 451) else FAILED, str(reply))


def _message(draft: Draft) -> bytes:
    date = format_datetime(datetime.now(UTC))
    return (
        f"From: {draft.sender}\r\nTo: {', '.join(draft.recipients)}\r\nSubject: {draft.subject}\r\nDate: {date}\r\n"
        f"Message-ID: <{draft.recipients[0]}>\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\n"
        f"\r\n{draft.text}"
    ).encode()

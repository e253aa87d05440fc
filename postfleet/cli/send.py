"""`postfleet send`: one message in over SMTP, and after it to its end."""

from __future__ import annotations

import asyncio
import time
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import formatdate, make_msgid
from pathlib import Path
from typing import Annotated

import aiosmtplib
import msgspec
import typer

from postfleet.cli.options import DATA, DataOption, Failed, open_backends, platform
from postfleet.cli.platform import Credentials
from postfleet.cli.story import clock_time, end_of, exit_code, sentence
from postfleet.deployment import split_address
from postfleet.event_log import read_events
from postfleet.ports import BlobStore
from postfleet.settings import HOUR
from postfleet.stages import Event

USER = "SMTP_Injection"
PENDING = 3
"""Exit code when the time is up first."""
LOOK_EVERY = 0.2
SUBMISSION_TIMEOUT = 60.0


def send(
    to: Annotated[str, typer.Option(metavar="ADDRESS")] = "ada@inbox1.example",
    sender: Annotated[
        str, typer.Option("--from", metavar="ADDRESS", help="Default: hello@ the first sending domain.")
    ] = "",
    subject: Annotated[str, typer.Option()] = "Hello",
    text: Annotated[str, typer.Option()] = "It works.",
    follow: Annotated[bool, typer.Option(help="Wait for the message's end.")] = True,
    timeout: Annotated[float, typer.Option(metavar="SECONDS", help="How long to follow.")] = 60.0,
    data: DataOption = DATA,
) -> None:
    """Send one message over SMTP and follow it to its end.

    Exit code: 0 delivered, 1 it ended otherwise, 3 the time is up and it is still pending.
    """
    raise typer.Exit(asyncio.run(_send(data, to, sender, subject, text, timeout if follow else None)))


async def _send(path: Path, to: str, sender: str, subject: str, text: str, timeout: float | None) -> int:
    data = platform(path)
    credentials = read_credentials(data.credentials)
    sender = sender or f"hello@{credentials.sending_domain}"
    transmission = await submit(credentials, sender, to, compose(sender, to, subject, text))
    typer.echo(f"{clock_time(time.time(), time.time())}  accepted as {transmission}, from {sender} to {to}")
    if timeout is None:
        return 0
    async with open_backends(data) as backends:
        end = await follow_to_end(backends.blobs, transmission, timeout)
    if not end:
        typer.echo(f"still pending after {timeout:g} s: `postfleet explain {transmission}` says where it is")
        return PENDING
    return exit_code(end)


def read_credentials(path: Path) -> Credentials:
    return msgspec.json.decode(path.read_bytes(), type=Credentials)


def compose(sender: str, to: str, subject: str, text: str) -> bytes:
    message = EmailMessage(policy=SMTP)
    message["From"], message["To"], message["Subject"] = sender, to, subject
    message["Date"], message["Message-ID"] = formatdate(localtime=True), make_msgid(domain=sender.rpartition("@")[2])
    message.set_content(text)
    return message.as_bytes()


async def submit(credentials: Credentials, sender: str, to: str, message: bytes) -> str:
    """The transmission's id, from the 250. Raises `Failed` with the reply that refused."""
    host, port = split_address(credentials.smtp)
    client = aiosmtplib.SMTP(
        hostname=host,
        port=port,
        username=USER,
        password=credentials.api_key,
        start_tls=False,
        local_hostname="localhost",
        timeout=SUBMISSION_TIMEOUT,
    )
    try:
        async with client:
            _, reply = await client.sendmail(sender, [to], message)
    except aiosmtplib.SMTPRecipientsRefused as error:
        raise Failed("; ".join(f"{each.code} {each.message}" for each in error.recipients)) from None
    except (aiosmtplib.SMTPException, OSError) as error:
        raise Failed(f"{credentials.smtp}: {error}") from None
    return reply.split()[-1]


async def follow_to_end(blobs: BlobStore, transmission: str, timeout: float) -> str:
    """Print each event as it comes. The terminal state of a transmission to one recipient; empty when time is up."""
    deadline = time.monotonic() + timeout
    seen: set[str] = set()
    while True:
        started = time.monotonic()
        for event in await _new_events(blobs, transmission, seen):
            if event.type != "injection":
                typer.echo(f"{clock_time(event.timestamp, time.time())}  {sentence(event, time.time())}")
            if end := end_of(event):
                return end
        if time.monotonic() > deadline:
            return ""
        await asyncio.sleep(max(LOOK_EVERY, 2 * (time.monotonic() - started)))


async def _new_events(blobs: BlobStore, transmission: str, seen: set[str]) -> list[Event]:
    since = time.time() - HOUR
    found = [
        event
        async for event in read_events(blobs, since=since, containing=transmission)
        if event.transmission_id == transmission and event.event_id not in seen
    ]
    seen.update(event.event_id for event in found)
    return sorted(found, key=lambda event: event.timestamp)

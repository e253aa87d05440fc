from __future__ import annotations

import asyncio
import hashlib
import smtplib
import socket
import struct
import subprocess
import sys
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import aiosmtplib
import pytest
from support.eventually import eventually

from postfleet.evidence import LedgerMessage, read_ledger
from postfleet.inbox import read_inbox

START = Any
"""The fixture `start_sink`."""
BODY = b"Subject: Hello\r\nMessage-ID: <1@a.example>\r\n\r\n.stuffed\r\n"


def connect(port: int) -> smtplib.SMTP:
    return smtplib.SMTP("127.0.0.1", port, local_hostname="client.example", timeout=5)


async def send(port: int, *recipients: str, sender: str = "b-1@a.example") -> None:
    """Each as a message of its own over one connection, by smtplib."""

    def run() -> None:
        with connect(port) as client:
            for recipient in recipients:
                client.sendmail(sender, recipient, BODY)

    await asyncio.to_thread(run)


async def test_smtplib_delivers_and_the_ledger_says_all_of_it(start_sink: START) -> None:
    """A message and its connection, as a foreign client sent them."""
    sink = await start_sink()
    await send(sink.port, "ann@x.example")
    (message,) = sink.messages()
    assert (message.sender, message.recipient, message.peer) == ("b-1@a.example", "ann@x.example", "127.0.0.1")
    assert (message.ehlo, message.message_id, message.tls) == ("client.example", "<1@a.example>", False)
    assert (message.size, message.sha256) == (len(BODY), hashlib.sha256(BODY).hexdigest())
    assert await sink.ends() == ["quit"]


async def test_aiosmtplib_delivers(start_sink: START) -> None:
    """Another foreign client, one message for two recipients: a record each."""
    sink = await start_sink()
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Message-ID"] = "a@a.example", "ann@x.example, bob@x.example", "<2@a.example>"
    mail.set_content("Hello")
    await aiosmtplib.send(mail, hostname="127.0.0.1", port=sink.port)
    assert [message.recipient for message in sink.messages()] == ["ann@x.example", "bob@x.example"]
    assert {message.message_id for message in sink.messages()} == {"<2@a.example>"}


async def test_messages_of_a_connection_are_numbered(start_sink: START) -> None:
    """The audit asks which was the last."""
    sink = await start_sink()
    await send(sink.port, "ann@x.example", "bob@x.example", sender="")
    first, second = sink.messages()
    assert (first.order, second.order) == (1, 2)
    assert first.connection == second.connection


async def test_the_ledger_precedes_the_reply(start_sink: START) -> None:
    """Whoever has read the 250 finds the message on file, and before the final dot there is none."""
    sink = await start_sink()

    def run() -> tuple[int, int]:
        with connect(sink.port) as client:
            client.ehlo()
            client.mail("")
            client.rcpt("ann@x.example")
            client.docmd("DATA")
            before = len(sink.messages())
            client.send("\r\nHello\r\n.\r\n")
            client.getreply()
            return before, len(sink.messages())

    assert await asyncio.to_thread(run) == (0, 1)


async def test_refusals_reach_the_client_and_not_the_ledger(start_sink: START) -> None:
    """A bounce is final, a deferral ends."""
    sink = await start_sink()
    with pytest.raises(smtplib.SMTPRecipientsRefused, match="User unknown"):
        await send(sink.port, "bounce-ann@x.example")
    with pytest.raises(smtplib.SMTPRecipientsRefused, match="451"):
        await send(sink.port, "defer-ann@x.example")
    await send(sink.port, "defer-ann@x.example")
    assert [message.recipient for message in sink.messages()] == ["defer-ann@x.example"]


async def test_a_dropped_connection_leaves_the_message_in_the_ledger(start_sink: START) -> None:
    """The client reads no reply, but the MX has it; the second time it answers."""
    sink = await start_sink()
    with pytest.raises((smtplib.SMTPServerDisconnected, ConnectionResetError)):
        await send(sink.port, "drop-ann@x.example")
    assert await sink.ends() == ["cut"]
    await send(sink.port, "drop-ann@x.example")
    assert len(sink.messages()) == 2
    assert await sink.ends(2) == ["cut", "quit"]


async def test_slow_answers_after_a_while(start_sink: START) -> None:
    """The message is on file long before its 250."""
    sink = await start_sink()
    started = asyncio.get_running_loop().time()
    sending = asyncio.create_task(send(sink.port, "slow1-ann@x.example"))
    await eventually(sink.messages, 0.9)
    await sending
    assert asyncio.get_running_loop().time() - started >= 1.0


async def test_421_closes_the_connection(start_sink: START) -> None:
    """The sink ends it, not the client."""
    sink = await start_sink()
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        await send(sink.port, "421-ann@x.example")
    assert await sink.ends() == ["cut"]


async def test_ends_without_quit_are_told_apart(start_sink: START) -> None:
    """A connection that the client closes, and one that it resets."""
    sink = await start_sink()
    client = await asyncio.to_thread(connect, sink.port)
    client.close()
    assert await sink.ends(1) == ["eof"]
    client = await asyncio.to_thread(connect, sink.port)
    assert isinstance(client.sock, socket.socket)
    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    assert await sink.ends(2) == ["eof", "reset"]


async def test_idle_connections_time_out(start_sink: START) -> None:
    """With a 421 that says so."""
    sink = await start_sink(idle_timeout=0.05)
    reader, writer = await asyncio.open_connection("127.0.0.1", sink.port)
    said = await reader.read()
    assert said.startswith(b"220 ") and b"421 4.4.2 Timeout" in said
    writer.close()
    await writer.wait_closed()
    assert await sink.ends() == ["timeout"]


async def test_connections_past_the_limit_are_turned_away(start_sink: START) -> None:
    """A site has so many connections open with one peer; the peak tells how many there were at once."""
    sink = await start_sink(limit=2)
    clients = [await asyncio.to_thread(connect, sink.port) for _ in range(2)]
    with pytest.raises(smtplib.SMTPConnectError, match="Too many concurrent"):
        await asyncio.to_thread(connect, sink.port)
    for client in clients:
        client.close()
    await sink.ends(3)
    await send(sink.port, "ann@x.example")
    assert max(sink.peaks()) == 3


def test_the_process_keeps_an_inbox_and_survives_kill(tmp_path: Path) -> None:
    """Stand-alone: what it answered is in the ledger after kill -9, and after a stop in the inbox too."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    for recipient in ("ann@x.example", "bob@x.example"):
        process = _start(tmp_path, port)
        with _connect_patiently(port) as client:
            client.sendmail("b-1@a.example", recipient, BODY)
            if recipient == "ann@x.example":
                process.kill()
            else:
                process.terminate()
            process.wait(5)
            client.close()
    records = read_ledger((tmp_path / "ledger").read_bytes().splitlines(keepends=True))
    assert [r.recipient for r in records if isinstance(r, LedgerMessage)] == ["ann@x.example", "bob@x.example"]
    assert [letter.recipients for letter in read_inbox(tmp_path / "inbox")] == [("bob@x.example",)]


def _start(folder: Path, port: int) -> subprocess.Popen[bytes]:
    places = ["--listen", f"127.0.0.1:{port}", "--ledger", folder / "ledger", "--inbox", folder / "inbox"]
    return subprocess.Popen([sys.executable, "-m", "sandbox", *places], stdout=subprocess.DEVNULL)


def _connect_patiently(port: int) -> smtplib.SMTP:
    for _ in range(200):
        try:
            return connect(port)
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise TimeoutError("the sink did not come up")

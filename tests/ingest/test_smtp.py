from __future__ import annotations

import asyncio
import hashlib
import re
import shutil
import smtplib
import struct
from base64 import b64encode
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from email.message import EmailMessage
from socket import SO_LINGER, SOL_SOCKET

import aiosmtplib
import pytest
from support.memory_backends import MemoryState

from ingest.smtp import SmtpServer, SmtpSettings
from postfleet.directory import ApiKey, Directory, SendingDomain
from postfleet.ports import Refused, StoreFull, Unavailable
from postfleet.stages import Submission

KEY = "0123456789abcdef" * 3
MAIL = b"From: Ann <a@example.com>\r\nTo: b@example.org\r\nSubject: Hi\r\n\r\nbody\r\n"
RESET_ON_CLOSE = struct.pack("ii", 1, 0)
LOOPBACK = ("127.0.0.0/8",)


class Clock:
    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def now(self) -> float:
        return self.time

    def mono(self) -> float:
        return self.time


class Acceptor:
    """Keeps what it is given, once `gate` is open; `failure` is raised instead."""

    def __init__(self) -> None:
        self.accepted: list[Submission] = []
        self.arriving: list[object] = []
        self.asked = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self._last = 170_000_000_000_000

    def new_id(self) -> str:
        self._last += 1
        return str(self._last)

    def announce(self, client: object) -> None:
        self.arriving.append(client)

    def arrived(self, client: object) -> None:
        self.arriving.remove(client)

    def submit(self, submission: Submission) -> asyncio.Future[None]:
        return asyncio.ensure_future(self._accept(submission))

    async def _accept(self, submission: Submission) -> None:
        self.asked.set()
        await self.gate.wait()
        if self.failure:
            raise self.failure
        self.accepted.append(submission)


class Fixture:
    def __init__(self, server: SmtpServer, acceptor: Acceptor, clock: Clock, port: int) -> None:
        self.server, self.acceptor, self.clock, self.port = server, acceptor, clock, port
        self.talks: list[Talk] = []

    async def close(self) -> None:
        for talk in self.talks:
            talk.writer.transport.abort()
            with suppress(OSError):
                await talk.writer.wait_closed()
        await self.server.stop(grace=1.0)

    async def dial(self, banner: bytes = b"220 mx.example ESMTP\r\n") -> Talk:
        talk = Talk(*await asyncio.open_connection("127.0.0.1", self.port))
        self.talks.append(talk)
        if banner:
            assert await talk.reader.readline() == banner
        return talk


class Talk:
    """A client that says lines and hears replies."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def say(self, data: bytes, replies: int = 1) -> str:
        self.writer.write(data)
        heard = ""
        for _ in range(replies):
            heard = await self.hear()
        return heard

    async def hear(self) -> str:
        while True:
            line = (await self.reader.readline()).decode()
            if line[3:4] != "-":
                return line.rstrip("\r\n")

    async def send(self, data: bytes = MAIL, sender: str = "a@example.com", recipient: str = "b@example.org") -> str:
        envelope = f"MAIL FROM:<{sender}>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n"
        assert (await self.say(envelope.encode(), 3)).startswith("354")
        return await self.say(data + b".\r\n")


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., object]]:
    """Starts a server; keywords as in `SmtpSettings`."""
    running: list[Fixture] = []

    async def make(**settings: object) -> Fixture:
        directory = Directory(MemoryState())
        digest = hashlib.sha256(KEY.encode()).hexdigest()
        directory.api_keys = {KEY[:8]: ApiKey(KEY[:8], digest, 7)}
        directory.domains = {"example.com": SendingDomain("example.com", 7, True, "bounces.example.com")}
        acceptor, clock = Acceptor(), Clock()
        server = SmtpServer(
            settings=SmtpSettings(**{"hostname": "mx.example", "bounce_domain": "bounces.default.example", **settings}),
            directory=directory,
            acceptor=acceptor,
            clock=clock,
        )
        running.append(Fixture(server, acceptor, clock, await server.start("127.0.0.1", 0)))
        return running[-1]

    yield make
    for fixture in running:
        await fixture.close()


def message() -> EmailMessage:
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Bcc"] = "Ann <a@example.com>", "b@example.org", "c@example.org"
    mail["Subject"] = "Hören"
    mail.set_content("Hello\n.\n..dots\n")
    return mail


async def test_smtplib_submits_with_auth(start):
    """Python's own client logs in and sends; each recipient of the one transmission is a message."""
    it = await start()

    def send() -> dict[str, tuple[int, bytes]]:
        with smtplib.SMTP("127.0.0.1", it.port, local_hostname="client.example") as client:
            client.login("SMTP_Injection", KEY)
            return client.send_message(message())

    assert await asyncio.to_thread(send) == {}
    (submission,) = it.acceptor.accepted
    assert [(m.index, m.address) for m in submission.messages] == [(0, "b@example.org"), (1, "c@example.org")]
    assert (submission.tenant, submission.sending_domain, submission.bounce_domain) == (
        7, "example.com", "bounces.example.com",
    )  # fmt: skip
    assert (submission.friendly_from, submission.subject, submission.method) == ("a@example.com", "Hören", "esmtp")
    assert b"Hello\r\n.\r\n..dots\r\n" in submission.content and b"c@example.org" not in submission.content
    assert submission.content_kind == "raw"


async def test_received_header_tells_the_way(start):
    """The stored message begins with a Received header of this hop (RFC 5321 4.4)."""
    it = await start(trust=LOOPBACK, any_sender=True)
    talk = await it.dial()
    await talk.say(b"EHLO client.example\r\n")
    reply = await talk.send()
    assert re.fullmatch(r"250 2\.0\.0 OK 170000000000001", reply)
    assert it.acceptor.accepted[0].content.startswith(
        b"Received: from client.example ([127.0.0.1])\r\n\tby mx.example with ESMTP id 170000000000001;\r\n"
        b"\tFri, 15 Jan 2027 08:00:00 +0000\r\nMessage-ID: <170000000000001@example.com>\r\n"
    )


@pytest.mark.parametrize("method", ["plain", "login"])
async def test_aiosmtplib_submits_by_each_mechanism(start, method):
    """AUTH PLAIN and AUTH LOGIN both open the door."""
    it = await start()
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=it.port, start_tls=False) as client:
        await client.ehlo()
        auth = client.auth_plain if method == "plain" else client.auth_login
        await auth("SMTP_Injection", KEY)
        await client.send_message(message())
    assert len(it.acceptor.accepted) == 1
    assert b"with ESMTPA id" in it.acceptor.accepted[0].content


@pytest.mark.foreign
@pytest.mark.skipif(shutil.which("swaks") is None, reason="swaks is not installed")
async def test_swaks_submits(start):
    """swaks with AUTH sends a message."""
    it = await start()
    envelope = f"--server 127.0.0.1:{it.port} --from a@example.com --to b@example.org"
    auth = f"--auth LOGIN -au SMTP_Injection -ap {KEY}"
    arguments = f"{envelope} {auth}".split()
    process = await asyncio.create_subprocess_exec("swaks", *arguments, stdout=asyncio.subprocess.DEVNULL)
    assert await process.wait() == 0 and len(it.acceptor.accepted) == 1


@pytest.mark.parametrize(("user", "key"), [("SMTP_Injection", "wrong"), ("somebody", KEY), ("SMTP_Injection", "")])
async def test_bad_credentials_are_refused(start, user, key):
    """A wrong user name or key is 535, and the door stays shut."""
    it = await start()
    async with aiosmtplib.SMTP(hostname="127.0.0.1", port=it.port, start_tls=False) as client:
        await client.ehlo()
        with pytest.raises(aiosmtplib.SMTPAuthenticationError) as refused:
            await client.auth_plain(user, key)
        assert (refused.value.code, refused.value.message) == (535, "5.7.8 Authentication credentials invalid")
        with pytest.raises(aiosmtplib.SMTPResponseException) as refused:
            await client.mail("a@example.com")
        assert refused.value.code == 530


async def test_mail_needs_authentication(start):
    """A client of no trusted network says AUTH first."""
    it = await start()
    talk = await it.dial()
    await talk.say(b"EHLO client.example\r\n")
    assert await talk.say(b"MAIL FROM:<a@example.com>\r\n") == "530 5.7.0 Authentication required"


async def logged_in(it: Fixture) -> Talk:
    talk = await it.dial()
    await talk.say(b"EHLO client.example\r\n")
    token = b64encode(f"\0SMTP_Injection\0{KEY}".encode())
    assert (await talk.say(b"AUTH PLAIN " + token + b"\r\n")).startswith("235")
    return talk


async def test_envelope_sender_needs_a_verified_domain(start):
    """A tenant cannot bounce to somebody else's domain."""
    talk = await logged_in(await start())
    reply = await talk.say(b"MAIL FROM:<a@Other.example>\r\n")
    assert reply == "550 5.7.1 Unconfigured Sending Domain <other.example>"


@pytest.mark.parametrize(
    ("header", "reply"),
    [
        (b"From: a@other.example", "550 5.7.1 Unconfigured Sending Domain <other.example>"),
        (b"From: a@example.com, b@other.example", "550 5.7.1 Unconfigured Sending Domain <other.example>"),
        (b"Subject: no sender", "550 5.6.0 a message needs exactly one From header"),
        (b"From: somebody", "550 5.6.0 the From header is not a list of addresses"),
        (b"Received: x\r\n" * 101 + b"From: a@b", "554 5.4.6 Message has passed more than 100 hosts: a mail loop"),
    ],
)
async def test_messages_that_may_not_be_sent(start, header, reply):
    """From must name verified domains only, be there once, and the message must not be looping."""
    it = await start()
    assert await (await logged_in(it)).send(header + b"\r\n\r\nx\r\n") == reply
    assert it.acceptor.accepted == []


async def test_null_sender_may_submit(start):
    """Only From decides for a message with the null return path."""
    it = await start()
    assert (await (await logged_in(it)).send(sender="")).startswith("250")


@pytest.mark.parametrize("recipient", ["b@[127.0.0.1]", "b@10.0.0.1"])
async def test_recipients_need_a_domain_name(start, recipient):
    """Addresses are not delivered to hosts by number."""
    talk = await logged_in(await start())
    await talk.say(b"MAIL FROM:<a@example.com>\r\n")
    assert (await talk.say(f"RCPT TO:<{recipient}>\r\n".encode())).startswith("550 5.1.2")


async def test_trusted_network_may_send_as_anyone_where_allowed(start):
    """With `any_sender` no domain is checked, and bounces go to the default domain."""
    it = await start(trust=LOOPBACK, any_sender=True)
    talk = await it.dial()
    await talk.say(b"EHLO client.example\r\n")
    await talk.send(b"just a body\r\n", sender="x@anything.example")
    (submission,) = it.acceptor.accepted
    assert (submission.tenant, submission.sending_domain, submission.bounce_domain, submission.friendly_from) == (
        0, "anything.example", "bounces.default.example", "x@anything.example",
    )  # fmt: skip


async def test_trusted_network_is_checked_by_default(start):
    """Trust spares the password, not the sending domain."""
    talk = await (await start(trust=LOOPBACK)).dial()
    await talk.say(b"EHLO client.example\r\n")
    assert (await talk.say(b"MAIL FROM:<a@example.com>\r\n")).startswith("550 5.7.1")


async def test_a_recipient_named_twice_is_one_message(start):
    """Equal addresses, up to the case of the domain, get one copy."""
    it = await start(trust=LOOPBACK, any_sender=True)
    talk = await it.dial()
    await talk.say(b"EHLO client.example\r\n")
    await talk.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nRCPT TO:<b@Example.ORG>\r\n", 3)
    await talk.say(b"DATA\r\n")
    await talk.say(MAIL + b".\r\n")
    assert [m.address for m in it.acceptor.accepted[0].messages] == ["b@example.org"]


async def test_250_waits_for_the_store(start):
    """Not a byte of the 250 leaves before `accept` returned, and pipelined input waits with it."""
    it = await start(trust=LOOPBACK, any_sender=True)
    it.acceptor.gate.clear()
    talk = await it.dial()
    await talk.say(b"EHLO client.example\r\n")
    await talk.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n", 3)
    talk.writer.write(MAIL + b".\r\nRSET\r\n")
    await it.acceptor.asked.wait()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(talk.reader.read(1), 0.05)
    it.acceptor.gate.set()
    assert (await talk.hear()).startswith("250 2.0.0 OK 17")
    assert await talk.hear() == "250 2.0.0 Ok"


@pytest.mark.parametrize(
    ("failure", "reply"),
    [
        (StoreFull(), "452 4.3.1 Insufficient system storage, try again later"),
        (Unavailable(), "451 4.3.0 The message could not be stored, try again later"),
        (Refused(), "451 4.3.0 The message could not be stored, try again later"),
    ],
)
async def test_storage_failures_are_temporary(start, failure, reply):
    """What was not stored for sure is not accepted, and the session goes on."""
    it = await start(trust=LOOPBACK, any_sender=True)
    it.acceptor.failure = failure
    talk = await it.dial()
    await talk.say(b"EHLO client.example\r\n")
    assert await talk.send() == reply
    it.acceptor.failure = None
    assert (await talk.send()).startswith("250")


async def test_message_is_kept_when_the_client_is_gone(start):
    """A connection lost during the commit does not undo it."""
    it = await start(trust=LOOPBACK, any_sender=True)
    it.acceptor.gate.clear()
    talk = await it.dial()
    await talk.say(b"EHLO client.example\r\n")
    await talk.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n", 3)
    talk.writer.write(MAIL + b".\r\n")
    await it.acceptor.asked.wait()
    talk.writer.get_extra_info("socket").setsockopt(SOL_SOCKET, SO_LINGER, RESET_ON_CLOSE)
    talk.writer.transport.abort()
    await it.server.stop(grace=5.0)
    it.acceptor.gate.set()
    await asyncio.sleep(0)
    assert len(it.acceptor.accepted) == 1


async def test_half_closed_client_gets_its_reply(start):
    """A client that shuts its sending side after the final dot still hears the 250."""
    it = await start(trust=LOOPBACK, any_sender=True)
    it.acceptor.gate.clear()
    talk = await it.dial()
    await talk.say(b"EHLO client.example\r\n")
    await talk.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n", 3)
    talk.writer.write(MAIL + b".\r\n")
    await it.acceptor.asked.wait()
    talk.writer.write_eof()
    it.acceptor.gate.set()
    assert (await talk.hear()).startswith("250")
    assert await talk.reader.read() == b""


async def test_early_talker_is_cut(start):
    """Who does not wait for the greeting gets none."""
    talk = await (await start(greet_delay=60.0)).dial(banner=b"")
    assert (await talk.say(b"EHLO client.example\r\n")).startswith("554 5.5.0")
    assert await talk.reader.read() == b""


async def test_silent_client_times_out(start):
    """After the idle time without a byte: 421."""
    it = await start()
    talk = await it.dial()
    it.clock.time += 301
    it.server.sweep()
    assert await talk.hear() == "421 4.4.2 Timeout, closing connection"
    assert await talk.reader.read() == b""


async def test_slow_loris_times_out(start):
    """A client that keeps dripping bytes but brings no message has an absolute limit."""
    it = await start(idle_time=300.0, session_time=1000.0)
    talk = await it.dial()
    for _ in range(4):
        it.clock.time += 240
        assert (await talk.say(b"NOOP\r\n")).startswith("250")
        it.server.sweep()
    it.clock.time += 240
    it.server.sweep()
    assert (await talk.hear()).startswith("421")


async def test_connections_are_limited(start):
    """One more than the limit is greeted with 421; room that became free is given again."""
    it = await start(max_connections=1)
    first = await it.dial()
    second = await it.dial(banner=b"421 4.7.0 Too many connections, try again later\r\n")
    assert await second.reader.read() == b""
    assert await first.say(b"QUIT\r\n") == "221 2.0.0 Bye"
    await first.reader.read()
    await it.dial()


async def test_erring_client_is_slowed_down(start):
    """Past the soft limit of errors each reply waits."""
    it = await start(soft_errors=1, error_delay=0.05)
    talk = await it.dial()
    await talk.say(b"FOO\r\n")
    loop = asyncio.get_running_loop()
    before = loop.time()
    assert (await talk.say(b"FOO\r\n")).startswith("500")
    assert loop.time() - before >= 0.04
    assert (await talk.say(b"QUIT\r\n")).startswith("221")


async def test_stop_dismisses_idle_clients_and_finishes_messages(start):
    """A clean stop says 421 to who is idle, and lets a message under way be answered before it does."""
    it = await start(trust=LOOPBACK, any_sender=True)
    idle, busy = await it.dial(), await it.dial()
    await busy.say(b"EHLO client.example\r\n")
    await busy.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n", 3)
    stopping = asyncio.create_task(it.server.stop(grace=5.0))
    assert (await idle.hear()).startswith("421 4.3.2")
    assert (await busy.say(MAIL + b".\r\n")).startswith("250")
    assert (await busy.hear()).startswith("421 4.3.2")
    await stopping


async def test_flood_behind_an_unanswered_message_is_not_read(start):
    """While a message is being stored the server reads only a bounded amount ahead."""
    it = await start(trust=LOOPBACK, any_sender=True)
    it.acceptor.gate.clear()
    talk = await it.dial()
    await talk.say(b"EHLO client.example\r\n")
    await talk.say(b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n", 3)
    talk.writer.write(MAIL + b".\r\n" + b"NOOP\r\n" * 5_000_000)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(talk.writer.drain(), 0.3)
    (session,) = it.server._sessions
    assert len(session._smtp._buffer) < 1_000_000
    talk.writer.transport.abort()
    it.acceptor.gate.set()

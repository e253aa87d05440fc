from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfleet.smtp.events import Connected, Data, Hello, Mail, MessageReceived, Quit, Rcpt, ServerConfig
from postfleet.smtp.replies import Reply
from postfleet.smtp.server import MAX_BACKLOG, Server

ENVELOPE = b"MAIL FROM:<a@example.com>\r\nRCPT TO:<b@example.org>\r\nDATA\r\n"
EVIL = b"MAIL FROM:<smuggled@evil.test>\r\n"
NOT_THE_END = [
    b"\n.\n", b"\n.\r\n", b"\r.\r", b"\r.\r\n", b"\r.\n", b"\n.\r", b"\r\n.\n", b"\r\n.\r", b"\r\n\0.\r\n",
    b"\r\n.\0\r\n", b"\r\0\n.\r\n", b"\r\n.\r\0\n", b"\r\n.\r\r\n", b"\r\r\n.\r\r\n",
]  # fmt: skip


@pytest.mark.parametrize("sequence", NOT_THE_END)
def test_only_crlf_dot_crlf_ends_data(peer, sequence):
    """What merely looks like an end keeps the smuggled command inside the message, which is then refused."""
    it = peer()
    it.say(ENVELOPE)
    assert it.say(b"hello" + sequence + EVIL) == b""
    assert it.say(b"\r\n.\r\n").startswith(b"550 5.6.11 ")
    assert it.messages == []
    assert [event.sender for event in it.events if isinstance(event, Mail)] == ["a@example.com"]


def test_nul_before_a_true_end_is_refused(peer):
    """A NUL in front of CRLF.CRLF does not hide the end, and the message with it is refused."""
    it = peer()
    it.say(ENVELOPE)
    assert it.say(b"hello\0\r\n.\r\n").startswith(b"550 5.6.11 Message contains a NUL")


def test_nul_after_a_true_end_is_a_bad_command(peer):
    """What follows CRLF.CRLF is a command line, and one with a NUL is refused whole."""
    it = peer()
    it.say(ENVELOPE)
    replies = it.say(b"hello\r\n.\r\n\0" + EVIL)
    assert replies.split(b"\r\n")[1].startswith(b"501 5.5.2")
    assert len(it.messages) == 1


def test_oversize_message_is_refused_at_its_true_end(peer):
    """A message over the limit is read to CRLF.CRLF, never kept whole, and refused; bare-LF dots do not end it."""
    it = peer(max_size=1000)
    it.say(ENVELOPE)
    for _ in range(100):
        assert it.say(b"x" * 998 + b"\n.\n") == b""
        assert len(it.server._buffer) < 3000
    assert it.say(b"\r\n.\r\n").startswith(b"552 5.3.4")
    assert it.say(ENVELOPE).endswith(b"354 End data with <CR><LF>.<CR><LF>\r\n")


def test_message_at_the_limit_is_taken_however_stuffed(peer):
    """Stuffed dots do not count: the limit is on the message, not on its wire form."""
    it = peer(max_size=999)
    it.say(ENVELOPE)
    stuffed = b"..\r\n" * 333
    for piece in (stuffed[:700], stuffed[700:], b".\r\n"):
        reply = it.say(piece)
    assert reply == b"250 2.0.0 Ok\r\n"
    assert it.messages[0].data == b".\r\n" * 333


def test_header_block_is_limited(peer):
    """Headers over 100 KB are refused though the message is within its size."""
    it = peer()
    it.say(ENVELOPE)
    assert it.say(b"X-Long: y\r\n" * 12000 + b"\r\nbody\r\n.\r\n").startswith(b"552 5.3.4 Message header")


def test_nothing_runs_before_a_message_is_answered():
    """Commands pipelined behind the final dot are kept, and run only after the reply to it."""
    server = Server(ServerConfig(hostname="mx"))
    events = []
    for data in (b"", b"EHLO x\r\n", ENVELOPE):
        server.receive(data)
        while (event := server.next_event()) is not None:
            server.accept()
    server.data_to_send()
    server.receive(b"hi\r\n.\r\n" + b"MAIL FROM:<c@example.com>\r\n")
    while (event := server.next_event()) is not None:
        events.append(event)
    assert [type(event) for event in events] == [MessageReceived]
    assert server.data_to_send() == b""
    server.reply(Reply(250, "2.0.0", "OK 17"))
    assert server.next_event() == Mail("c@example.com", {})
    assert server.data_to_send() == b"250 2.0.0 OK 17\r\n"


def test_backlog_behind_an_unanswered_event_shows():
    """While an event waits, input past the backlog limit asks the caller to stop reading."""
    server = Server(ServerConfig(hostname="mx"))
    server.next_event()
    server.receive(b"x" * (MAX_BACKLOG + 1))
    assert server.congested


def test_replies_to_pipelined_commands_are_one_write(peer):
    """MAIL, RCPT and DATA in one segment are answered in one."""
    assert peer().say(ENVELOPE).count(b"\r\n") == 3


def test_refused_recipient_is_no_recipient():
    """A recipient that the caller refused is not in the envelope, and alone leaves DATA without one."""
    server = Server(ServerConfig(hostname="mx"))
    for data in (b"", b"EHLO x\r\n", ENVELOPE):
        server.receive(data)
        while (event := server.next_event()) is not None:
            if isinstance(event, Rcpt):
                server.reply(Reply(550, "5.1.1", "No such user"))
            else:
                server.accept()
    assert server.data_to_send().endswith(b"554 5.5.1 No valid recipients\r\n")


def test_late_bytes_before_354_are_out_of_step():
    """A client that sends data while the caller still thinks about DATA is cut off."""
    server = Server(ServerConfig(hostname="mx"))
    for data in (b"", b"EHLO x\r\n", ENVELOPE):
        server.receive(data)
        while (event := server.next_event()) is not None and not isinstance(event, Data):
            server.accept()
    server.receive(b"early body")
    server.accept()
    assert server.data_to_send().endswith(b"554 5.5.0 Error: you must wait for my reply (RFC 2920)\r\n")
    assert server.closed


def test_refused_greeting_leaves_quit_alone():
    """After a 554 greeting every command but QUIT is out of place (RFC 5321 3.1)."""
    server = Server(ServerConfig(hostname="mx"))
    assert server.next_event() == Connected()
    server.reply(Reply(554, "5.3.2", "No service"))
    server.data_to_send()
    server.receive(b"EHLO x\r\n")
    assert server.next_event() is None
    assert server.data_to_send() == b"503 5.5.1 No service here\r\n"
    server.receive(b"QUIT\r\n")
    assert server.next_event() == Quit()


def test_caller_may_answer_hello_itself():
    """A reply to EHLO goes out as the caller wrote it."""
    server = Server(ServerConfig(hostname="mx"))
    server.next_event()
    server.accept()
    server.data_to_send()
    server.receive(b"EHLO x\r\n")
    assert server.next_event() == Hello("x", True)
    server.reply(Reply(250, "", "mx\nXXXXXXXX"))
    assert server.data_to_send() == b"250-mx\r\n250 XXXXXXXX\r\n"


def test_421_from_the_caller_closes():
    """A 421 in answer to any event ends the connection."""
    server = Server(ServerConfig(hostname="mx"))
    server.next_event()
    server.reply(Reply(421, "4.3.2", "Busy"))
    assert server.closed and server.data_to_send() == b"421 4.3.2 Busy\r\n"


def test_without_enhanced_codes_none_are_sent(peer):
    """Enhanced status codes appear only where they were offered."""
    assert peer(extensions=("PIPELINING",)).say(b"NOOP\r\n") == b"250 Ok\r\n"


def test_errors_are_forgiven_by_a_message(peer):
    """An accepted message starts the count of errors again."""
    it = peer(max_errors=3)
    it.say(b"FOO\r\nBAR\r\n")
    it.say(ENVELOPE)
    it.say(b"hi\r\n.\r\n")
    assert it.server.errors == 0


def test_overlong_lines_are_refused_in_bounded_memory(peer):
    """A command line without end is discarded as it comes, and answered once."""
    it = peer()
    for _ in range(50):
        assert it.say(b"x" * 4096) == b""
        assert len(it.server._buffer) <= 3 * 4096 + 1
    assert it.say(b"\r\nNOOP\r\n") == b"500 5.5.2 Line too long\r\n250 2.0.0 Ok\r\n"


WORDS = st.sampled_from(
    [b"EHLO x", b"MAIL FROM:<a@b>", b"RCPT TO:<c@d>", b"DATA", b"\r\n", b"\n", b"\r", b".", b"\0", b"AUTH PLAIN ", b"=",
     b"AUTH LOGIN", b"*", b"RSET", b"QUIT", b"\xff", b"x" * 3000, b"GET /", b" ", b"\r\n.\r\n"]
)  # fmt: skip


@given(st.lists(WORDS | st.binary(max_size=20), max_size=60))
def test_garbage_never_raises_and_stays_bounded(pieces):
    """Whatever bytes come, the machine answers or waits, and holds no more than its limits."""
    server = Server(ServerConfig(hostname="mx", auth=("PLAIN", "LOGIN"), max_size=2000))
    server.next_event()
    server.accept()
    for piece in pieces:
        server.receive(piece)
        while server.next_event() is not None:
            server.accept()
        assert len(server._buffer) <= 12288 + 3000
    output = server.data_to_send()
    assert output.endswith(b"\r\n") and output.count(b"\n") == output.count(b"\r\n") == output.count(b"\r")


def test_smtputf8_takes_addresses_beyond_ascii(peer):
    """Non-ASCII addresses pass where SMTPUTF8 is offered, and only there."""
    command = "MAIL FROM:<jörg@exämple.com> SMTPUTF8\r\n".encode()
    offering = peer(extensions=("PIPELINING", "ENHANCEDSTATUSCODES", "SMTPUTF8"))
    assert offering.say(command) == b"250 2.1.0 Ok\r\n"
    assert peer().say(command).startswith(b"501 5.5.2")

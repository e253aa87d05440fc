from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfleet.smtp.client import BodyWanted, Client, Closing, Idle, ProtocolError, Ready, Result
from postfleet.smtp.replies import MAX_LINE, Reply

HELLO = b"220 mx\r\n250-mx\r\n250 PIPELINING\r\n"
GRANTED = b"250 Ok\r\n250 Ok\r\n354 Go on\r\n"


def ready(stream: bytes = HELLO) -> Client:
    client = Client("client.example")
    for line in stream.splitlines(keepends=True):
        client.receive(line)
    client.data_to_send()
    return client


def converse(client, peer, size, events):
    """Carry octets between the two, `size` at a time, until both are silent."""
    while output := client.data_to_send():
        answer = b"".join([peer.say(output[i : i + size]) for i in range(0, len(output), size)])
        for i in range(0, len(answer), size):
            events += client.receive(answer[i : i + size])


@pytest.mark.parametrize("extensions", [("PIPELINING", "SIZE", "ENHANCEDSTATUSCODES"), ()])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
@pytest.mark.parametrize(
    "data", [b"", b"\r\n", b".\r\n", b"..\r\n.\r\n", b"a\r\n.b\r\n\r\n", b"Subject: x\r\n\r\n" + b"line\r\n" * 2000]
)
def test_both_machines_carry_a_message_unchanged(peer, extensions, size, data):
    """Whatever the message, the extensions and the cutting of the stream, the server gets the client's bytes."""
    it, client, events = peer(hello=False, extensions=extensions), Client("client.example"), []
    events += client.receive(b"220 mx ESMTP\r\n")
    converse(client, it, size, events)
    client.mail("a@example.com", "b@example.org", len(data))
    converse(client, it, size, events)
    stream = b"".join(client.body(data))
    answer = b"".join([it.say(stream[i : i + size]) for i in range(0, len(stream), size)])
    events += client.receive(answer)
    assert [type(event) for event in events] == [Ready, BodyWanted, Result, Idle]
    assert [(m.sender, m.recipients, m.data) for m in it.messages] == [("a@example.com", ("b@example.org",), data)]


def test_body_without_leading_dots_is_not_copied():
    """A body that needs no stuffing is handed back as the same object."""
    client = ready()
    client.mail("a@example.com", "b@example.org", 4)
    client.receive(GRANTED)
    body = b"hi\r\n"
    assert client.body(body)[0] is body


def test_nothing_is_said_before_the_greeting():
    """The client waits for the banner."""
    client = Client("client.example")
    assert client.data_to_send() == b""
    assert (client.stage, client.deadline) == ("greeting", 300.0)


def test_deadlines_follow_the_stage():
    """Each stage has the time that RFC 5321 4.5.3.2 gives it; none runs while nothing is asked."""
    client = ready()
    seen = [(client.stage, client.deadline)]
    client.mail("a@example.com", "b@example.org", 4)
    for line in (b"250 Ok\r\n", b"250 Ok\r\n", b"354 Ok\r\n"):
        seen.append((client.stage, client.deadline))
        client.receive(line)
    seen.append((client.stage, client.deadline))
    client.body(b"")
    seen.append((client.stage, client.deadline))
    assert seen == [("idle", None), ("mail", 300), ("rcpt", 300), ("data", 120), ("data", None), ("final", 600)]


def test_mail_out_of_turn_is_a_mistake():
    """Nothing is pipelined past an unanswered final dot."""
    client = ready()
    client.mail("a@example.com", "b@example.org", 4)
    client.receive(GRANTED)
    client.body(b"hi\r\n")
    with pytest.raises(RuntimeError, match="stage final"):
        client.mail("a@example.com", "c@example.org", 4)


@pytest.mark.parametrize(
    "address", ["b@x.org>\r\nRCPT TO:<c@y.org", "b@x.org\n", "b@x.org\0", "b c@x.org", "", "b@", "<b@x.org>"]
)
def test_addresses_cannot_carry_commands(address):
    """A recipient that is no plain mailbox is refused here, and nothing of it is sent."""
    client = ready()
    result = client.mail("a@example.com", address, 4)
    assert result is not None and result.local and result.reply.permanent
    assert client.data_to_send() == b"" and client.idle


def test_internationalised_address_needs_smtputf8():
    """Without SMTPUTF8 a non-ASCII address is refused here; with it the parameter is sent."""
    result = ready().mail("a@example.com", "jörg@example.org", 4)
    assert result is not None and result.reply.enhanced == "5.6.7"
    client = ready(b"220 mx\r\n250-mx\r\n250 SMTPUTF8\r\n")
    assert client.mail("a@example.com", "jörg@example.org", 4) is None
    assert client.data_to_send() == b"MAIL FROM:<a@example.com> SMTPUTF8\r\n"


def test_eight_bit_body_is_declared_where_offered():
    """BODY=8BITMIME goes out if asked for and offered."""
    client = ready(b"220 mx\r\n250-mx\r\n250 8BITMIME\r\n")
    client.mail("a@example.com", "b@example.org", 4, eight_bit=True)
    assert client.data_to_send() == b"MAIL FROM:<a@example.com> BODY=8BITMIME\r\n"


def test_reply_text_is_made_harmless():
    """Control characters and bytes that are no UTF-8 are escaped, TABs become spaces."""
    client = ready()
    client.mail("a@example.com", "b@example.org", 4)
    result, _ = client.receive(b"550 5.1.1 \x1b[31mno\tuser \xff\r\n550 x\r\n550 y\r\n")
    assert result.reply == Reply(550, "5.1.1", "\\x1b[31mno user \\xff")


def test_enhanced_code_of_another_class_is_text():
    """`550 4.1.1 x` has no valid enhanced code: the basic code rules."""
    client = ready()
    client.mail("a@example.com", "b@example.org", 4)
    assert client.receive(b"550 4.1.1 x\r\n")[0].reply == Reply(550, "", "4.1.1 x")


@pytest.mark.parametrize(
    "reply",
    [b"999 x\r\n", b"000 x\r\n", b"25 x\r\n", b"hello\r\n", b"\r\n", b"\0\r\n", b"250-a\r\n251 b\r\n", b"x" * MAX_LINE,
     b"250-" + b"x" * MAX_LINE + b"\r\n", b"250-x\r\n" * 101, (b"250-" + b"x" * 1000 + b"\r\n") * 70],
)  # fmt: skip
def test_what_is_no_reply_ends_the_connection(reply):
    """Malformed, contradictory and boundless replies are protocol errors."""
    client = ready()
    client.mail("a@example.com", "b@example.org", 4)
    (event,) = client.receive(reply)
    assert isinstance(event, ProtocolError) and event.stage == "mail" and not event.indeterminate
    assert client.closed


def test_after_the_end_nothing_is_heard():
    """Once closed, further octets and the end of the stream make no events."""
    client = ready()
    assert client.eof() == [Closing("idle", None, False)]
    assert client.receive(b"250 Ok\r\n") == [] and client.eof() == []


REPLIES = st.sampled_from(
    [b"220 x\r\n", b"250 Ok\r\n", b"250-PIPELINING\r\n", b"250 x\r\n", b"354 x\r\n", b"421 x\r\n", b"450 x\r\n",
     b"550 x\r\n", b"250-", b"\r\n", b"\n", b"\0", b"x" * 500]
)  # fmt: skip


@given(st.lists(REPLIES | st.binary(max_size=8), max_size=60))
def test_garbage_never_raises_and_each_transaction_ends_once(pieces):
    """Whatever a server says, no exception, bounded memory, and at most one Result for each MAIL."""
    client, mails, results = Client("client.example"), 0, 0
    for piece in pieces:
        for event in client.receive(piece):
            results += isinstance(event, Result) and event.stage not in ("greeting", "ehlo")
            if isinstance(event, BodyWanted):
                client.body(b"hi\r\n")
        if client.idle:
            mails += 1
            client.mail("a@example.com", "b@example.org", 4)
        assert mails - 1 <= results <= mails
        assert len(client._reader._buffer) < MAX_LINE + 600
    client.eof()
    assert client.closed

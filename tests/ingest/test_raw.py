from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ingest.raw import BadMessage, RawMessage, decode_text

FULL = b"From: Ann <a@example.com>\r\nSubject: Hi\r\nMessage-ID: <1@x>\r\nDate: now\r\n\r\nbody\r\n"


def stored(data: bytes) -> bytes:
    return RawMessage(data).content(b"Received: here\r\n", "17@example.com", "today")


def test_complete_message_gets_a_trace_header_alone():
    """Nothing of a message that has all it needs is touched."""
    assert stored(FULL) == b"Received: here\r\n" + FULL


def test_missing_identity_is_added():
    """Message-ID and Date are added where the client left them out (RFC 6409 8)."""
    assert stored(b"From: a@b\r\n\r\nx\r\n") == (
        b"Received: here\r\nMessage-ID: <17@example.com>\r\nDate: today\r\nFrom: a@b\r\n\r\nx\r\n"
    )


def test_private_fields_are_removed_with_their_folds():
    """Bcc, Return-Path and X-MSYS-API go, whatever their case and folding; the body stays."""
    data = FULL.replace(b"Subject", b"bCC: x@y,\r\n z@y\r\nReturn-Path: <x>\r\nX-Msys-Api : {\r\n\t}\r\nSubject")
    assert stored(data) == b"Received: here\r\n" + FULL


@pytest.mark.parametrize("data", [b"just text\r\n", b"", b" folded: first\r\n", b"\r\n", b"\r\nFrom: a@b\r\n"])
def test_message_without_header_is_a_body(data):
    """Where the first line is no field the header is empty, and a blank line says so."""
    blank = b"" if data.startswith(b"\r\n") else b"\r\n"
    assert stored(data).endswith(b"Date: today\r\n" + blank + data)
    with pytest.raises(BadMessage):
        RawMessage(data).senders()


def test_header_ends_at_the_first_line_that_is_none():
    """A From behind a line that is no field is body, for us and, by the blank line, for everybody after us."""
    message = RawMessage(b"From: a@b\r\nMessage-ID: <1@x>\r\nDate: d\r\nnot a field\r\nFrom: evil@x\r\n\r\nbody\r\n")
    assert message.senders() == ("a@b",)
    assert b"Date: d\r\n\r\nnot a field\r\n" in message.content(b"", "", "")


def test_header_alone_is_closed():
    """A message that is all header gets its blank line."""
    assert stored(b"From: a@b\r\nMessage-ID: <1@x>\r\nDate: d\r\n").endswith(b"Date: d\r\n\r\n")


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        (b"a@example.com", ("a@example.com",)),
        (b"Ann <a@Example.com>", ("a@example.com",)),
        (b'"Ann, B" <a@b>,\r\n c@d', ("a@b", "c@d")),
        ("Jörg <a@bücher.example>".encode(), ("a@xn--bcher-kva.example",)),
    ],
)
def test_senders_are_all_addresses_of_from(value, addresses):
    """Every address counts, so that none hides behind another."""
    assert RawMessage(b"From: " + value + b"\r\n\r\n").senders() == addresses


@pytest.mark.parametrize(
    "header",
    [
        b"From: a@b\r\nFROM : c@d\r\n",
        b"From: undisclosed\r\n",
        b"From:\r\n",
        b"From: a@b (c)\r\n",
        b"From: \xff@b\r\n",
        b"To: a@b\r\n",
    ],
)
def test_ambiguous_from_is_refused(header):
    """No From, two, or one that cannot be read for sure."""
    with pytest.raises(BadMessage):
        RawMessage(header + b"\r\n").senders()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b" Hello", "Hello"),
        (b" folded\r\n value", "folded value"),
        (b" =?utf-8?B?SMO2cmVu?= =?utf-8?q?_m=C3=B6gen?= x", "Hören mögen x"),
        (b" =?nonsense?B?SMO2cmVu?=", "=?nonsense?B?SMO2cmVu?="),
        (b" =?utf-8?B?SMO2cmV?=", "=?utf-8?B?SMO2cmV?="),
        (b" =?unicode_escape?Q?a=5Cud800b?=", "a?b"),
        (b" =?utf-8?Q?a=0D=0ABcc:_x=00?=", "a  Bcc: x "),
        ("Hören".encode(), "Hören"),
        (b"x" * 5000, "x" * 256),
    ],
)
def test_header_text_is_decoded_as_well_as_can_be(value, text):
    """Encoded words are decoded, what is broken stays as it came, and no text is long."""
    assert decode_text(value) == text


def test_hops_are_counted():
    """Each Received field is one host passed."""
    assert RawMessage(b"Received: a\r\n\tb\r\nreceived: c\r\n\r\nReceived: body\r\n").hops == 2


PIECES = [b"From: ", b"a@b", b"\r\n", b" ", b"Subject: =?utf-8?B?", b"?=", b":", b"<", b'"', b"Bcc:x"]


@given(st.lists(st.sampled_from(PIECES)))
def test_garbage_is_stored_or_refused(pieces):
    """Any data makes content that ends with its body, or a `BadMessage`; nothing else is raised."""
    message = RawMessage(b"".join(pieces))
    assert len(message.subject) <= 256
    with suppress(BadMessage):
        message.senders()
    content = message.content(b"Received: x\r\n", "1@x", "d")
    header, blank, _ = content.partition(b"\r\n\r\n")
    assert header.startswith(b"Received: x\r\n") and blank and b"\r\nBcc:x" not in header

from __future__ import annotations

import email.policy
import email.utils
import inspect
from email.header import decode_header, make_header
from email.message import EmailMessage
from email.message import Message as ParsedMessage
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from postfleet.content.addresses import InvalidAddress
from postfleet.content.compile import Inline, compile_inline
from postfleet.content.headers import date
from postfleet.content.render import Renderer, UnknownVersion
from postfleet.content.template import TemplateError, Unrenderable
from postfleet.stages import BlobRef, Message, Transmission

SOME_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=200)
NASTY = st.one_of(
    SOME_TEXT,
    st.sampled_from(
        [
            "\r\nBcc: x@y.example", "a\nb", "a\r", "\0", "\x85Bcc: x", "\u2028Bcc: x", "\u560a\u560dBcc: x",
            "=?utf-8?q?=0d=0aBcc:_x@y?=", '"><b@c.example>', "x, y@z.example", "\r\n.\r\n", ".", "..", "w" * 3000,
            " " * 3000 + "x", "é" * 500, "--=_123.7--", "=\r\n", "a" * 75 + "é", "From x",
        ]
    ),
)  # fmt: skip


def render(content: Inline, data: dict[str, Any] | None = None, **message: Any) -> bytes:
    transmission = Transmission(
        "123", 0, 1_800_000_000.0, 2e9, BlobRef("k", 0, 1), "template", "example.com", data=Raw(b'{"shared": "common"}')
    )
    recipient = Message(7, **{"address": "bob@example.org", **message}, data=Raw(msgspec.json.encode(data)))
    return Renderer(compile_inline(content)).render(transmission, recipient)


def inline(**fields: Any) -> Inline:
    return Inline(**{"from_email": "ann@example.com", "subject": "Hi", "text": "Hello\n", **fields})


def parsed(raw: bytes) -> EmailMessage:
    message = email.message_from_bytes(raw, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


# The strict reading of newer versions is wrong about a "[" in a quoted local part.
_LENIENT = {"strict": False} if "strict" in inspect.signature(email.utils.getaddresses).parameters else {}


def addresses_in(values: list[str]) -> list[tuple[str, str]]:
    return email.utils.getaddresses(values, **_LENIENT)


def compat(raw: bytes) -> ParsedMessage:
    return email.message_from_bytes(raw, policy=email.policy.compat32)


def shown(header: str) -> str:
    return str(make_header(decode_header(header.replace("\r\n", ""))))


def canonical(text: str) -> str:
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def assert_fit_for_any_server(raw: bytes) -> None:
    assert raw.isascii() and b"\0" not in raw
    assert raw.endswith(b"\r\n")
    lines = raw.split(b"\r\n")
    assert all(len(line) <= 998 and b"\r" not in line and b"\n" not in line for line in lines)


def test_whole_message() -> None:
    """A message has its header fields, its text and nothing else."""
    content = inline(from_name="Ann", reply_to="help@example.com", headers={"X-Kind": "receipt"}, text="Hi {{name}}\n")
    assert render(content, {"name": "Bob"}, name="Bob B").decode() == (
        'From: "Ann" <ann@example.com>\r\n'
        "Subject: Hi\r\n"
        "Reply-To: help@example.com\r\n"
        "X-Kind: receipt\r\n"
        'To: "Bob B" <bob@example.org>\r\n'
        "Date: Fri, 15 Jan 2027 08:00:00 +0000\r\n"
        "Message-ID: <123.7@example.com>\r\n"
        "MIME-Version: 1.0\r\n"
        "Content-Type: text/plain; charset=utf-8\r\n"
        "Content-Transfer-Encoding: quoted-printable\r\n"
        "\r\n"
        "Hi =\r\n"
        "Bob=\r\n"
        "\r\n"
    )


def test_same_every_time() -> None:
    """Rendering is a function of its arguments: a repeated step sends the same bytes."""
    content = inline(html="<p>{{x}}</p>")
    assert render(content, {"x": "1"}) == render(content, {"x": "1"})


def test_alternatives() -> None:
    """With text and html the message is multipart/alternative, plain text first."""
    message = parsed(render(inline(text="T {{x}}", html="<p>{{x}} {{{x}}}</p>"), {"x": "<é/>"}))
    assert message.get_content_type() == "multipart/alternative"
    plain, html = message.iter_parts()
    assert plain.get_payload(decode=True) == "T <é/>".encode()
    assert html.get_payload(decode=True) == "<p>&lt;é&#x2F;&gt; <é/></p>".encode()


def test_base64_when_shorter() -> None:
    """Text that is mostly not ASCII goes out in base64, with and without variables."""
    for source, expected in (("Привет, мир\n" * 20, "Привет, мир\n" * 20), ("Привет {{x}} " * 20, "Привет мир " * 20)):
        message = parsed(render(inline(text=source), {"x": "мир"}))
        assert message["Content-Transfer-Encoding"] == "base64"
        assert message.get_payload(decode=True).decode().replace("\r\n", "\n") == expected  # type: ignore[union-attr]


def test_braces_left_alone() -> None:
    """Without substitution in bodies their braces are text; headers are still substituted."""
    message = parsed(render(inline(subject="{{x}}", text="{{if}}", substitute_bodies=False), {"x": "1"}))
    assert message["Subject"] == "1"
    assert message.get_content().strip() == "{{if}}"


@given(plain=SOME_TEXT, values=st.lists(NASTY, min_size=3, max_size=3), html=st.booleans())
@settings(max_examples=300, deadline=None)
def test_bodies_round_trip(plain: str, values: list[str], html: bool) -> None:
    """What a reader decodes is the template with its values, lines ending in CRLF and NUL removed."""
    plain = plain.replace("{", "")
    a, b, c = values
    source = "{{a}}" + plain + "{{{b}}}{{c}}\n" + plain + "{{a}}"
    raw = render(inline(text=source, html="<p>" if html else None), {"a": a, "b": b, "c": c})
    assert_fit_for_any_server(raw)
    part: Any = compat(raw)
    if html:
        part = part.get_payload()[0]
    got = part.get_payload(decode=True).decode()
    a, b, c, before, after = (canonical(piece) for piece in (a, b, c, plain, "\n" + plain))
    expected = f"{a}{before}{b}{c}{after}{a}"
    assert got.replace("\r\n", "\n").removesuffix("\n") == expected.removesuffix("\n")


@given(value=NASTY, name=NASTY, other=NASTY)
@settings(max_examples=400, deadline=None)
def test_no_value_adds_a_header(value: str, name: str, other: str) -> None:
    """Whatever is substituted, the message has the same header fields, addressed to the same mailboxes."""
    content = inline(
        from_name="{{name}}",
        from_email="{{value}}@example.com",
        subject="S {{value}} {{other}}",
        reply_to='"{{name}}" <{{value}}>, {{other}}-x@example.com',
        headers={"X-Tag": "{{value}}", "Cc": "{{name}} <cc@example.com>", "X-Long": "{{other}}{{value}}{{name}}"},
        html="{{value}}",
    )
    raw = render(content, {"value": value, "name": name, "other": other}, name=name)
    assert_fit_for_any_server(raw)
    message = compat(raw)
    assert [name.lower() for name in message] == [
        "from", "subject", "reply-to", "x-tag", "cc", "x-long", "to", "date", "message-id", "mime-version",
        "content-type",
    ]  # fmt: skip
    assert len(message.get_payload()) == 2
    for header, count in (("From", 1), ("Reply-To", 2), ("Cc", 1), ("To", 1)):
        addresses = addresses_in([message[header].replace("\r\n", "")])
        assert len(addresses) == count
        assert all("@example." in address for _, address in addresses[-1:])


@given(value=NASTY)
@settings(max_examples=200, deadline=None)
def test_header_text_round_trips(value: str) -> None:
    """A reader sees the subject that was meant, control characters as spaces."""
    raw = render(inline(subject="S {{value}} E"), {"value": value})
    expected = "".join(" " if ord(c) < 32 or 127 <= ord(c) < 160 or c in "\u2028\u2029" else c for c in value)
    assert shown(compat(raw)["Subject"]) == f"S {expected} E"


@pytest.mark.parametrize("value", ["word " * 60, "é" * 300, "x" * 2000, "日本語" * 50])
def test_folds_long_headers(value: str) -> None:
    """Long header text is folded at 78 characters and reads as one."""
    raw = render(inline(subject="{{value}}"), {"value": value})
    head = raw.partition(b"\r\n\r\n")[0]
    assert all(len(line) <= 78 for line in head.split(b"\r\n"))
    assert shown(compat(raw)["Subject"]) == value.strip()


def test_sender_own_encoded_words() -> None:
    """Encoded words that the sender wrote stay; ones that come with a value are shown as text."""
    assert b"Subject: =?utf-8?q?H=C3=A9?=\r\n" in render(inline(subject="=?utf-8?q?H=C3=A9?="))
    raw = render(inline(subject="{{x}}"), {"x": "=?utf-8?q?H=C3=A9?="})
    assert shown(compat(raw)["Subject"]) == "=?utf-8?q?H=C3=A9?="


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, "bob@example.org"),
        ({"name": 'B "x" \\ Y'}, '"B \\"x\\" \\\\ Y" <bob@example.org>'),
        ({"name": "Bö"}, "=?utf-8?b?QsO2?= <bob@example.org>"),
        ({"name": "N", "header_to": "other@example.org"}, '"N" <other@example.org>'),
        ({"header_to": "a@x.example, Bé <b@x.example>"}, "a@x.example, =?utf-8?b?QsOp?= <b@x.example>"),
        ({"name": "N", "header_to": "a@x.example, b@x.example"}, "a@x.example, b@x.example"),
    ],
)
def test_recipient_header(fields: dict[str, str], expected: str) -> None:
    """To shows the name and header_to, or the address."""
    assert f"\r\nTo: {expected}\r\n" in render(inline(), None, **fields).decode()


def test_reply_to_that_is_no_address() -> None:
    """Replies go to the sender where the value for the whole address is none."""
    assert b"\r\nReply-To: ann@example.com\r\n" in render(inline(reply_to="{{who}}"), {"who": "nobody"})
    assert b"\r\nReply-To: a@b.example\r\n" in render(inline(reply_to="{{who}}"), {"who": "a@b.example"})


@pytest.mark.parametrize("field", ["text", "html", "subject", "from_name", "from_email", "reply_to"])
def test_syntax_errors_are_found_when_compiling(field: str) -> None:
    """A template error names its part before anything is accepted."""
    with pytest.raises(TemplateError) as caught:
        compile_inline(inline(**{field: "{{if x}}@example.com"}))
    assert caught.value.part in {"text", "html", "Header:Subject", "Header:From", "Header:Reply-To"}


@pytest.mark.parametrize(
    "fields",
    [
        {"from_email": "{{x}}"},
        {"from_email": "a@{{x}}"},
        {"from_email": "a@b@c"},
        {"reply_to": "nobody"},
        {"reply_to": "a@{{x}}.example"},
        {"reply_to": "a@b.example," * 101 + "a@b.example"},
        {"headers": {"Cc": "x"}},
    ],
)
def test_refuses_bad_addresses(fields: dict[str, Any]) -> None:
    """Addresses are checked when compiling, as far as they are constant."""
    with pytest.raises(InvalidAddress):
        compile_inline(inline(**fields))


def test_newer_content() -> None:
    """Content stored by a newer release is not rendered by guessing."""
    stored = msgspec.json.decode(compile_inline(inline()))
    stored[0] += 1
    with pytest.raises(UnknownVersion):
        Renderer(msgspec.json.encode(stored))


@given(timestamp=st.integers(0, 4_000_000_000))
def test_dates(timestamp: int) -> None:
    """Dates read as the standard library writes them."""
    assert date(timestamp) == email.utils.format_datetime(
        email.utils.parsedate_to_datetime(email.utils.formatdate(timestamp, localtime=False).replace("-0000", "+0000"))
    )


def test_limits_what_values_can_grow_to() -> None:
    """A short template and long values make no endless message."""
    with pytest.raises(Unrenderable):
        render(inline(text="{{x}}" * 300), {"x": "y" * 100_000})
    with pytest.raises(Unrenderable):
        render(inline(subject="{{x}}"), {"x": "y" * 100_000})


def test_limits_variables() -> None:
    """A template of nothing but variables is refused at the door."""
    with pytest.raises(TemplateError):
        compile_inline(inline(text="{{x}}" * 100_000))

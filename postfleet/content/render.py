"""The stored form of inline content -> one recipient's message: RFC 5322, CRLF line ends, ASCII."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw

from postfleet.content import headers, transfer
from postfleet.content.addresses import InvalidAddress, parse_address, quote_local_part, split_mailboxes
from postfleet.content.compile import VERSION, Body, Field, Mailbox, Stored, TextField
from postfleet.content.template import Fragments, Substitutions, Unrenderable, Variable, escape_html, has_variables
from postfleet.stages import Message, Transmission, message_id

MAX_HEADER_TEXT = 32 * 1024

_decode_stored = msgspec.json.Decoder(Stored).decode
_decode_data = msgspec.json.Decoder(dict[str, Any] | None).decode


class UnknownVersion(ValueError):
    """The stored form is of a newer release."""


class Renderer:
    """Made once per content; `render` depends on its arguments and the stored bytes alone.

    `render` raises `Unrenderable` where the recipient's values are too long; data that is no JSON object, or an
    invalid `header_to`, raise `msgspec.DecodeError` and `InvalidAddress`. All of them are final.
    """

    def __init__(self, stored: bytes) -> None:
        content = _decode_stored(stored)
        if content.version > VERSION:
            raise UnknownVersion(f"stored content has version {content.version}, this release knows {VERSION}")
        self._content = content
        self._shared: tuple[Raw | None, Mapping[str, Any]] = (None, {})

    def render(self, transmission: Transmission, message: Message) -> bytes:
        values = Substitutions(
            self._shared_data(transmission.data), _decode_data(message.data) or {}, message.address, message.name
        )
        content = self._content
        identity = message_id(transmission.id, message.index)
        sections = [
            content.constant,
            *[self._field(field, values) for field in content.fields],
            recipient_header(message),
            f"Date: {headers.date(transmission.accepted_at)}\r\n",
            f"Message-ID: <{identity}@{transmission.sending_domain}>\r\n",
            "MIME-Version: 1.0\r\n",
            _bodies(content.bodies, values, identity),
        ]
        return "".join(sections).encode("ascii")

    def _shared_data(self, data: Raw) -> Mapping[str, Any]:
        if self._shared[0] is not data:
            self._shared = data, _decode_data(data) or {}
        return self._shared[1]

    def _field(self, field: Field, values: Substitutions) -> str:
        if isinstance(field, TextField):
            return headers.text_header(field.name, _header_text(field.value, values))
        return headers.address_header(field.name, [self._mailbox(box, values) for box in field.mailboxes])

    def _mailbox(self, box: Mailbox, values: Substitutions) -> list[str]:
        return headers.mailbox(_header_text(box.name, values), self._address(box.address, values))

    def _address(self, address: Fragments, values: Substitutions) -> str:
        """The sender's address where a whole address was to be substituted and the value is none."""
        if not has_variables(address):
            return values.join(address)
        if len(address) > 1:
            local, _, domain = values.join(address).rpartition("@")
            return f"{quote_local_part(local)}@{domain}"
        try:
            return parse_address(values.join(address))
        except InvalidAddress:
            return self._address(self._content.sender.address, values)


def _header_text(fragments: Fragments, values: Substitutions) -> str:
    text = values.join(fragments)
    if len(text) > MAX_HEADER_TEXT:
        raise Unrenderable(f"a header field has more than {MAX_HEADER_TEXT} characters after substitution")
    return text


def recipient_header(message: Message) -> str:
    """`To: "name" <header_to or address>`; a `header_to` that is itself a mailbox list stands as it is."""
    if not message.header_to:
        return headers.address_header("To", [headers.mailbox(message.name, message.address)])
    boxes = [(shown, parse_address(address)) for shown, address in split_mailboxes(message.header_to)]
    if len(boxes) == 1 and message.name:
        boxes = [(message.name, boxes[0][1])]
    return headers.address_header("To", [headers.mailbox(shown, address) for shown, address in boxes])


def _bodies(bodies: tuple[Body, ...], values: Substitutions, identity: str) -> str:
    if len(bodies) == 1:
        text = _part(bodies[0], values)
        return text if text.endswith("\r\n") else text + "\r\n"
    # No `=_` stands in quoted-printable or base64, so the boundary cannot occur in a body.
    boundary = "=_" + identity
    parts = "".join([f"--{boundary}\r\n{_part(body, values)}\r\n" for body in bodies])
    return f'Content-Type: multipart/alternative; boundary="{boundary}"\r\n\r\n{parts}--{boundary}--\r\n'


def _part(body: Body, values: Substitutions) -> str:
    html = body.subtype == "html"
    if body.encoding == transfer.BASE64:
        text = _base64(body.fragments, values, html)
    else:
        encode = transfer.encode_quoted_printable_piece
        pieces = [f if isinstance(f, str) else encode(_value(f, values, html)) for f in body.fragments]
        text = "".join(pieces)
    return (
        f"Content-Type: text/{body.subtype}; charset=utf-8\r\nContent-Transfer-Encoding: {body.encoding}\r\n\r\n{text}"
    )


def _base64(fragments: Fragments, values: Substitutions, html: bool) -> str:
    if not has_variables(fragments):
        return values.join(fragments)
    return transfer.encode_base64("".join([f if isinstance(f, str) else _value(f, values, html) for f in fragments]))


def _value(variable: Variable, values: Substitutions, html: bool) -> str:
    value = values.value(variable.path)
    if not value.isprintable():
        value = transfer.canonical(value)
    return escape_html(value) if html and not variable.raw else value

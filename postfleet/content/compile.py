"""Inline content -> the stored form that `render` makes messages of.

Whatever does not depend on the recipient is encoded here, once: constant
header fields whole, bodies up to their variables.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice

import msgspec
from msgspec import Struct

from postfleet.content import headers, transfer
from postfleet.content.addresses import InvalidAddress, parse_address, parse_domain, split_mailboxes
from postfleet.content.template import Fragments, Variable, has_variables, parse

VERSION = 1
MAX_MAILBOXES = 100

_ADDRESS_FIELDS = frozenset({"cc", "sender", "resent-from", "resent-to", "resent-cc", "disposition-notification-to"})
_HOLE = "\x01"


class Inline(Struct, frozen=True, kw_only=True):
    """Content as the API takes it, with no control characters but in the bodies."""

    from_email: str
    from_name: str = ""
    subject: str
    text: str | None = None
    html: str | None = None
    reply_to: str = ""
    """A mailbox list."""
    headers: Mapping[str, str] = {}
    substitute_bodies: bool = True
    """False leaves braces in text and html alone."""


class Mailbox(Struct, frozen=True, array_like=True):
    """`address`: one constant, one variable, or a local part with variables followed by a constant `@domain`."""

    name: Fragments
    address: Fragments


class TextField(Struct, frozen=True, array_like=True, tag="text"):
    name: str
    value: Fragments


class AddressField(Struct, frozen=True, array_like=True, tag="address"):
    name: str
    mailboxes: tuple[Mailbox, ...]


Field = TextField | AddressField


class Body(Struct, frozen=True, array_like=True):
    """`fragments` are encoded already for quoted-printable, and for base64 without variables."""

    subtype: str
    encoding: str
    fragments: Fragments


class Stored(Struct, frozen=True, array_like=True):
    """`constant` fields are finished; `fields` are rendered per recipient."""

    version: int
    sender: Mailbox
    constant: str
    fields: tuple[Field, ...]
    bodies: tuple[Body, ...]


_encode = msgspec.json.Encoder().encode


def compile_inline(content: Inline) -> bytes:
    """The stored form.

    Raises `postfleet.content.template.TemplateError`, or `InvalidAddress` whose message begins with the field's name.
    """
    sender = _sender(content)
    constant: list[str] = []
    fields: list[Field] = []
    for field in _fields(content, sender):
        finished = _finished(field)
        if finished is None:
            fields.append(field)
        else:
            constant.append(finished)
    bodies = tuple(
        _body(subtype, part, source, content.substitute_bodies)
        for subtype, part, source in (("plain", "text", content.text), ("html", "html", content.html))
        if source is not None
    )
    return _encode(Stored(VERSION, sender, "".join(constant), tuple(fields), bodies))


def _fields(content: Inline, sender: Mailbox) -> list[Field]:
    fields: list[Field] = [
        AddressField("From", (sender,)),
        TextField("Subject", parse(content.subject, "Header:Subject")),
    ]
    if content.reply_to:
        fields.append(_address_field("Reply-To", content.reply_to))
    for name, value in content.headers.items():
        if name.lower() in _ADDRESS_FIELDS:
            fields.append(_address_field(name, value))
        else:
            fields.append(TextField(name, parse(value, f"Header:{name}")))
    return fields


def _finished(field: Field) -> str | None:
    """The field's bytes, where no recipient changes them."""
    if isinstance(field, TextField):
        if has_variables(field.value):
            return None
        return headers.text_header(field.name, _constant(field.value), keep_encoded_words=True)
    if any(has_variables(box.name + box.address) for box in field.mailboxes):
        return None
    boxes = [headers.mailbox(_constant(b.name), _constant(b.address)) for b in field.mailboxes]
    return headers.address_header(field.name, boxes)


def _literals(fragments: Fragments) -> list[str]:
    return [fragment for fragment in fragments if isinstance(fragment, str)]


def _constant(fragments: Fragments) -> str:
    return "".join([fragment for fragment in fragments if isinstance(fragment, str)])


# ---------------------------------------------------------------- addresses


def _address_field(name: str, source: str) -> AddressField:
    """The list is taken apart before anything is substituted, so that no value can add a mailbox."""
    fragments = parse(headers.clean(source), f"Header:{name}")
    holes = iter([fragment for fragment in fragments if isinstance(fragment, Variable)])
    text = "".join(fragment if isinstance(fragment, str) else _HOLE for fragment in fragments)
    try:
        boxes = tuple(
            Mailbox(_refill(shown, holes), _checked(_refill(address, holes)))
            for shown, address in islice(split_mailboxes(text), MAX_MAILBOXES + 1)
        )
    except InvalidAddress as error:
        raise InvalidAddress(f"{name}: {error}") from None
    if len(boxes) > MAX_MAILBOXES:
        raise InvalidAddress(f"{name}: more than {MAX_MAILBOXES} mailboxes")
    return AddressField(name, boxes)


def _refill(text: str, holes: Iterator[Variable]) -> Fragments:
    """Variables back into the places that were kept for them."""
    fragments: list[str | Variable] = []
    for n, literal in enumerate(text.split(_HOLE)):
        if n:
            fragments.append(next(holes))
        if literal:
            fragments.append(literal)
    return tuple(fragments)


def _checked(address: Fragments) -> Fragments:
    """`address` with its domain in normal form. Raises `InvalidAddress`."""
    if len(address) == 1 and isinstance(address[0], Variable):
        return address
    if not has_variables(address):
        return (parse_address(_constant(address)),)
    local, at, domain = address[-1].rpartition("@") if isinstance(address[-1], str) else ("", "", "")
    if not at:
        raise InvalidAddress("an address is one variable, or a local part, @ and a domain without variables")
    parse_address("".join(f if isinstance(f, str) else "x" for f in address))
    return (*address[:-1], f"{local}@{parse_domain(domain)}")


def _sender(content: Inline) -> Mailbox:
    try:
        address = _checked(parse(headers.clean(content.from_email), "Header:From"))
    except InvalidAddress as error:
        raise InvalidAddress(f"From: {error}") from None
    if isinstance(address[-1], Variable):
        raise InvalidAddress("From: the domain of the sender must not be a variable")
    return Mailbox(parse(content.from_name, "Header:From"), address)


# ---------------------------------------------------------------- bodies


def _body(subtype: str, part: str, source: str, substitute: bool) -> Body:
    text = transfer.canonical(source)
    fragments = parse(text, part) if substitute else (text,)
    encoding = transfer.shorter_encoding(_constant(fragments))
    if encoding == transfer.BASE64:
        ready = fragments if has_variables(fragments) else (transfer.encode_base64(text),)
        return Body(subtype, encoding, ready)
    return Body(subtype, encoding, _quoted_printable(fragments))


def _quoted_printable(fragments: Fragments) -> Fragments:
    last = len(fragments) - 1
    return tuple(
        fragment
        if isinstance(fragment, Variable)
        else transfer.encode_quoted_printable(fragment)
        if n == last
        else transfer.encode_quoted_printable_piece(fragment)
        for n, fragment in enumerate(fragments)
    )

"""The recipients of a transmission: one Message each, or the reason why not."""

from __future__ import annotations

import re
from typing import Any

import msgspec
from msgspec import Raw, Struct

from ingest.errors import ApiError, invalid, missing
from postfleet.content.addresses import InvalidAddress, parse_address, split_mailboxes
from postfleet.stages import Message

MAX_DATA = 100 * 1000
"""Substitution data of one recipient or one transmission, bytes of JSON."""
MAX_METADATA = 10 * 1000
MAX_DEPTH = 64
MAX_NAME = 1024
MAX_HEADER_TO = 16 * 1024

CONTROL = re.compile("[\x00-\x1f\x7f]")
NOTHING = Raw(b"null")


class _Address(Struct):
    email: str | None = None
    name: str | None = None
    header_to: str | None = None


class _Recipient(Struct):
    address: str | _Address | None = None
    substitution_data: Raw = NOTHING
    metadata: Raw = NOTHING


_decode_recipient = msgspec.json.Decoder(_Recipient).decode
_decode_data = msgspec.json.Decoder(dict[str, Any] | list[Any] | None).decode


class Rejected(Exception):
    """This recipient cannot be sent to."""

    def __init__(self, error: ApiError) -> None:
        super().__init__(error.description)
        self.error = error


def check_recipients(entries: list[Raw]) -> tuple[tuple[Message, ...], list[ApiError]]:
    """Accepted recipients, numbered without gaps, and one error for each of the others."""
    messages: list[Message] = []
    errors: list[ApiError] = []
    for entry in entries:
        try:
            messages.append(_message(len(messages), entry))
        except Rejected as rejected:
            errors.append(rejected.error)
    return tuple(messages), errors


def _message(index: int, entry: Raw) -> Message:
    try:
        recipient = _decode_recipient(entry)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(invalid(f"invalid recipient: {error}")) from None
    data = check_data(recipient.substitution_data, "substitution_data", MAX_DATA, "2002")
    check_data(recipient.metadata, "metadata", MAX_METADATA, "2007")
    address = recipient.address
    if isinstance(address, str):
        return Message(index, _email(address), data=data)
    if address is None or address.email is None:
        raise Rejected(missing("recipients.address.email"))
    name = _name(address.name) if address.name else ""
    header_to = _header_to(address.header_to) if address.header_to else ""
    return Message(index, _email(address.email), name, header_to, data)


def _email(text: str) -> str:
    try:
        return parse_address(text.strip(" "))
    except InvalidAddress:
        raise Rejected(invalid(f"invalid recipient address.email: {text[:320]}")) from None


def _name(name: str) -> str:
    if len(name) > MAX_NAME or CONTROL.search(name):
        raise Rejected(
            invalid(f"invalid recipient address.name: control characters, or over {MAX_NAME}: {name[:80]!r}")
        )
    return name.strip()


def _header_to(text: str) -> str:
    if len(text) > MAX_HEADER_TO or CONTROL.search(text):
        raise Rejected(
            invalid(f"invalid recipient address.header_to: control characters, or over {MAX_HEADER_TO} characters")
        )
    try:
        for _, address in split_mailboxes(text):
            parse_address(address)
    except InvalidAddress as error:
        raise Rejected(invalid(f"invalid recipient address.header_to: {error}")) from None
    return text


def check_data(data: Raw, field: str, limit: int, too_large: str) -> Raw:
    """An object as it was sent; null and [] are no data. Raises `Rejected`."""
    if len(memoryview(data)) > limit:
        raise Rejected(ApiError(f"{field.replace('_', ' ')} too large", f"{field} is over {limit} bytes", too_large))
    try:
        value = _decode_data(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(invalid(f"invalid {field}: {error}")) from None
    if not value:
        return NOTHING
    if isinstance(value, list):
        raise Rejected(invalid(f"field '{field}' is of type 'json_array', but needs to be of type 'json_object'"))
    if _deeper_than(MAX_DEPTH, value):
        raise Rejected(invalid(f"{field} is nested deeper than {MAX_DEPTH} levels"))
    return data


def _deeper_than(limit: int, value: Any) -> bool:
    level = [value]
    for _ in range(limit):
        level = [
            child
            for parent in level
            for child in (parent.values() if isinstance(parent, dict) else parent)
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True

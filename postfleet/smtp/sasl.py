"""SASL mechanisms as generators: they yield challenges, are sent responses and return credentials (RFC 4954)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Generator

Exchange = Generator[bytes, bytes, tuple[str, str]]


class BadResponse(Exception):
    """The client's response is not what the mechanism asks for."""


def plain(initial: bytes | None) -> Exchange:
    """RFC 4616: `authzid NUL authcid NUL password`; the authorisation identity is not used."""
    response = initial if initial is not None else (yield b"")
    parts = response.split(b"\0")
    if len(parts) != 3:
        raise BadResponse("PLAIN wants authorisation id, user name and password, separated by NUL")
    return _text(parts[1]), _text(parts[2])


def login(initial: bytes | None) -> Exchange:
    """The mechanism that was never standardised: user name, then password."""
    user = initial if initial is not None else (yield b"Username:")
    password = yield b"Password:"
    return _text(user), _text(password)


MECHANISMS: dict[str, Callable[[bytes | None], Exchange]] = {"PLAIN": plain, "LOGIN": login}


def decode_response(text: str) -> bytes:
    """Base64, `=` for empty."""
    if text == "=":
        return b""
    try:
        return base64.b64decode(text, validate=True)
    except binascii.Error:
        raise BadResponse("not valid base64") from None


def _text(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        raise BadResponse("not valid UTF-8") from None

"""A message that came whole, by SMTP: what its header says, and the form in which it is stored.

Works on bytes and looks at the header alone (RFC 5322 2.2, 3.6).
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error, a2b_qp
from functools import lru_cache

from postfleet.content.addresses import InvalidAddress, parse_address, split_mailboxes
from postfleet.content.headers import clean

MAX_HOPS = 100
"""RFC 5321 section 6.3."""
MAX_TEXT = 256
"""Characters of a header that go into events."""

_FIELD_END = re.compile(rb"\r\n(?![ \t])")
_FIELD_NAME = re.compile(rb"([!-9;-~]+)[ \t]*:")
_ENCODED_WORD = re.compile(r"=\?([^?* ]+)(?:\*[^?]*)?\?([bBqQ])\?([^? ]*)\?=(?:[ \t]+(?==\?))?")
_REMOVED = frozenset({b"bcc", b"return-path", b"x-msys-api"})


class BadMessage(Exception):
    """Why this message cannot be sent."""


class RawMessage:
    """The header ends at the blank line, or before the first line that is no header field, as Postfix has it."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._fields: list[tuple[bytes, bytes]] = []
        """Lower-case name, and the whole field without its last CRLF."""
        self._body = 0
        """Where the rest begins: with the blank line, where there is one."""
        self._read_header()
        self._names = frozenset([name for name, _ in self._fields])

    def _read_header(self) -> None:
        if self._data.startswith(b"\r\n"):
            return
        end = self._data.find(b"\r\n\r\n")
        block = self._data[:end] if end >= 0 else self._data.removesuffix(b"\r\n")
        for field in _FIELD_END.split(block):
            match = _FIELD_NAME.match(field)
            if match is None:
                self._body = sum([len(earlier) + 2 for _, earlier in self._fields])
                return
            self._fields.append((match[1].lower(), field))
        self._body = len(block) + 2

    @property
    def hops(self) -> int:
        return len(self._all(b"received"))

    @property
    def subject(self) -> str:
        """Decoded as well as can be, and cut: for events."""
        fields = self._all(b"subject")
        return decode_text(fields[0].partition(b":")[2]) if fields else ""

    def senders(self) -> tuple[str, ...]:
        """The addresses in From. Raises `BadMessage` unless there is exactly one such header, with addresses."""
        fields = self._all(b"from")
        if len(fields) != 1:
            raise BadMessage("a message needs exactly one From header")
        return _addresses(fields[0].partition(b":")[2])

    def content(self, trace: bytes, message_id: str, date: str) -> bytes:
        """What is stored: `trace` and what was missing in front, what is nobody else's business left out."""
        parts = [trace]
        if b"message-id" not in self._names:
            parts.append(f"Message-ID: <{message_id}>\r\n".encode())
        if b"date" not in self._names:
            parts.append(f"Date: {date}\r\n".encode())
        if _REMOVED.isdisjoint(self._names) and self._data.startswith(b"\r\n", self._body):
            parts.append(self._data)
        else:
            parts += [field + b"\r\n" for name, field in self._fields if name not in _REMOVED]
            body = self._data[self._body :]
            parts += [body] if body.startswith(b"\r\n") else [b"\r\n", body]
        return b"".join(parts)

    def _all(self, name: bytes) -> list[bytes]:
        return [field for known, field in self._fields if known == name] if name in self._names else []


@lru_cache(maxsize=1024)
def _addresses(value: bytes) -> tuple[str, ...]:
    try:
        text = value.replace(b"\r\n", b"").decode()
        return tuple([parse_address(address) for _, address in split_mailboxes(text)])
    except (UnicodeDecodeError, InvalidAddress):
        raise BadMessage("the From header is not a list of addresses") from None


def decode_text(value: bytes) -> str:
    """An unstructured header value without folding and control characters, encoded words decoded, cut to `MAX_TEXT`."""
    text = value[: 4 * MAX_TEXT].replace(b"\r\n", b"").decode("utf-8", "replace").strip()
    if "=?" in text:
        text = _ENCODED_WORD.sub(_decode_word, text)
    return clean(text)[:MAX_TEXT]


def _decode_word(match: re.Match[str]) -> str:
    """RFC 2047; a word that cannot be decoded stays as it is."""
    charset, encoding, text = match[1], match[2].lower(), match[3]
    try:
        octets = b64decode(text) if encoding == "b" else a2b_qp(text, header=True)
        # Some charsets decode to lone surrogates, which nothing can store.
        return octets.decode(charset, "replace").encode("utf-8", "replace").decode()
    except (Error, LookupError, ValueError):
        return match[0]

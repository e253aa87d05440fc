"""Replies: the record, its wire form, and a bounded reader (RFC 5321 4.2, RFC 2034)."""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

MAX_LINE = 2048
MAX_LINES = 100
MAX_REPLY = 64 * 1024

_LINE = re.compile(rb"([2-5][0-9]{2})(?:([ -])(.*))?", re.DOTALL)
_ENHANCED = re.compile(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?= |$)")


class Reply(Struct, frozen=True):
    """One reply. Lines of `text` are separated by LF and carry neither code nor enhanced code."""

    code: int
    enhanced: str = ""
    text: str = ""

    @property
    def positive(self) -> bool:
        return self.code < 400

    @property
    def temporary(self) -> bool:
        return 400 <= self.code < 500

    @property
    def permanent(self) -> bool:
        return self.code >= 500

    def __str__(self) -> str:
        words = (str(self.code), self.enhanced, self.text.replace("\n", " "))
        return " ".join(word for word in words if word)


class BadReply(Exception):
    """What came is no reply, or is larger than a reply may be."""


def printable(text: str) -> str:
    """The text with everything escaped that could disturb a terminal, a log or a protocol line."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@lru_cache(maxsize=64)
def encode_reply(reply: Reply, enhanced: bool = True) -> bytes:
    """The wire form. `enhanced`: whether enhanced status codes were offered."""
    prefix = reply.enhanced + " " if enhanced and reply.enhanced else ""
    if "\n" not in reply.text:
        return f"{reply.code} {prefix}{printable(reply.text)}\r\n".encode()
    *first, last = [prefix + printable(line) for line in reply.text.split("\n")]
    return "".join([f"{reply.code}-{line}\r\n" for line in first] + [f"{reply.code} {last}\r\n"]).encode()


class ReplyReader:
    """Cuts a byte stream into replies: lines of at most 2 KB, at most 100 of them and 64 KB in one reply."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._code = 0
        self._lines: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next_reply(self) -> Reply | None:
        """The next whole reply, None while there is none. Raises `BadReply`; the stream is of no use after that."""
        while (end := self._buffer.find(b"\n", 0, MAX_LINE)) >= 0:
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if (reply := self._take(line.removesuffix(b"\r"))) is not None:
                return reply
        if len(self._buffer) >= MAX_LINE:
            raise BadReply(f"reply line longer than {MAX_LINE} bytes")
        return None

    def _take(self, line: bytes) -> Reply | None:
        """The reply that this line ends."""
        code, more, text = _parsed(line)
        if not (more or self._lines):
            return _reply(code, (text,))
        if self._lines and code != self._code:
            raise BadReply(f"reply code changed from {self._code} to {code} within one reply")
        self._code = code
        self._lines.append(text)
        self._size += len(line)
        if len(self._lines) > MAX_LINES or self._size > MAX_REPLY:
            raise BadReply(f"reply longer than {MAX_LINES} lines or {MAX_REPLY} bytes")
        return None if more else self._finish()

    def _finish(self) -> Reply:
        lines, self._lines, self._size = tuple(self._lines), [], 0
        return _reply(self._code, lines)


@lru_cache(maxsize=256)
def _parsed(line: bytes) -> tuple[int, bool, str]:
    """(code, whether the reply goes on, text). Hosts say the same few lines again and again."""
    match = _LINE.fullmatch(line)
    if match is None:
        raise BadReply(f"not a reply: {_excerpt(line)}")
    return (
        int(match[1]),
        match[2] == b"-",
        printable((match[3] or b"").decode("utf-8", "backslashreplace").replace("\t", " ")),
    )


@lru_cache(maxsize=256)
def _reply(code: int, lines: tuple[str, ...]) -> Reply:
    found = _ENHANCED.match(lines[0])
    if found is None or int(found[1]) != code // 100:
        return Reply(code, "", "\n".join(lines))
    enhanced = found[0]
    return Reply(code, enhanced, "\n".join([line.removeprefix(enhanced).lstrip() for line in lines]))


def _excerpt(line: bytes) -> str:
    return printable(line[:80].decode("utf-8", "backslashreplace"))

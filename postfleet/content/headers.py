"""Header fields as 7-bit text: folding (RFC 5322 section 2.2.3), encoded words (RFC 2047), mailboxes, dates.

Every function takes any text at all and gives one header field: what could end
a line or hide in one becomes a space.
"""

from __future__ import annotations

import re
from base64 import b64encode
from datetime import UTC, datetime

_LINE = 78
_ENCODED_LINE = 76
_LONGEST_WORD = 900
_WRAPPING = len("=?utf-8?b??=")

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_TOKENS = re.compile(" *[^ ]+")
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def clean(value: str) -> str:
    """Without control characters and line separators."""
    if value.isprintable():
        return value
    return _CONTROLS.sub(" ", value)


def text_header(name: str, value: str, *, keep_encoded_words: bool = False) -> str:
    """An unstructured field with its line end. `=?` in `value` is text, unless the sender wrote encoded words."""
    value = clean(value)
    if value.isascii() and (keep_encoded_words or "=?" not in value):
        if len(name) + len(value) + 2 <= _LINE:
            return f"{name}: {value}\r\n"
        words = _TOKENS.findall(value)
        if max(map(len, words), default=0) < _LONGEST_WORD:
            return fold(name, words)
    return fold(name, encoded_words(value, _ENCODED_LINE - len(name) - 2))


def fold(name: str, words: list[str]) -> str:
    """Words go on one line while they fit; each but the first brings its leading space, or is given one."""
    lines = [f"{name}: {words[0].lstrip(' ')}" if words else f"{name}: "]
    for word in words[1:]:
        spaced = word if word.startswith(" ") else " " + word
        if len(lines[-1]) + len(spaced) <= _LINE:
            lines[-1] += spaced
        else:
            lines.append(spaced)
    return "\r\n".join(lines) + "\r\n"


def encoded_words(value: str, room: int) -> list[str]:
    """`value` as UTF-8 in base64 words of at most 75 characters, the first of at most `room`; no character is split."""
    data = value.encode("utf-8", "replace")
    words: list[str] = []
    position = 0
    while position < len(data):
        limit = _word_bytes(room if not words else _ENCODED_LINE - 1)
        end = min(position + limit, len(data))
        while end < len(data) and data[end] & 0xC0 == 0x80:
            end -= 1
        words.append(f"=?utf-8?b?{b64encode(data[position:end]).decode()}?=")
        position = end
    return words


def _word_bytes(room: int) -> int:
    return max((room - _WRAPPING) // 4 * 3, 6)


def mailbox(name: str, address: str) -> list[str]:
    """`"name" <address>` as words to fold; `address` is valid and ASCII."""
    name = clean(name).strip()
    if not name:
        return [address]
    if name.isascii() and len(name) <= 60 and "=?" not in name:
        quoted = name.replace("\\", "\\\\").replace('"', '\\"')
        return [f'"{quoted}"', f"<{address}>"]
    return [*encoded_words(name, 60), f"<{address}>"]


def address_header(name: str, mailboxes: list[list[str]]) -> str:
    """A field of one or more mailboxes with its line end."""
    words: list[str] = []
    for words_of_one in mailboxes:
        if words:
            words[-1] += ","
        words += words_of_one
    return fold(name, words)


def date(timestamp: float) -> str:
    """Unix seconds -> `Sun, 22 Nov 2026 04:55:28 +0000`."""
    t = datetime.fromtimestamp(timestamp, UTC)
    return f"{_DAYS[t.weekday()]}, {t.day:02} {_MONTHS[t.month - 1]} {t.year:04} {t:%H:%M:%S} +0000"

"""Command lines and message data on the wire: line ends, dot-stuffing, the one true terminator (RFC 5321 2.3.8, 4.5.2).

The readers cut their piece from the front of a buffer that they share with
whoever fills it, and remember how far they have looked.
"""

from __future__ import annotations

MAX_LINE = 12288
"""The longest line that anybody may send: a SASL response (RFC 4954 section 4)."""

_TERMINATOR = b"\r\n.\r\n"


class LineReader:
    def __init__(self) -> None:
        self._scanned = 0
        self._overlong = False

    def take(self, buffer: bytearray) -> bytes | None:
        """The next line with its LF, None while there is none. One that was too long to keep comes as its last piece,
        preceded by `MAX_LINE` octets of filling, so that its length tells."""
        end = buffer.find(b"\n", self._scanned)
        if end < 0:
            if len(buffer) > MAX_LINE:
                self._overlong = True
                buffer.clear()
            self._scanned = len(buffer)
            return None
        line = bytes(buffer[: end + 1])
        del buffer[: end + 1]
        if self._overlong:
            line = b" " * MAX_LINE + line
        self._scanned, self._overlong = 0, False
        return line


class MessageReader:
    """Finds the end of message data, holding no more of it than a message may have."""

    def __init__(self, max_size: int) -> None:
        # Stuffing adds at most one octet to each three (a line that is a lone dot).
        self._limit = max_size * 4 // 3 + len(_TERMINATOR)
        self._scanned = 0
        self._stuffed = False
        self._overflowed = False

    def begin(self, buffer: bytearray) -> None:
        """The end of the DATA line counts as the CRLF before the first line of data."""
        buffer[:] = b"\r\n"
        self._scanned, self._stuffed, self._overflowed = 0, False, False

    def take(self, buffer: bytearray) -> bytes | None:
        """All between DATA and the final dot, with the CRLFs on both sides and without stuffed dots.

        None while the dot is to come; empty for a message that was too large to keep.
        """
        end = buffer.find(b"\r\n.", self._scanned)
        if end >= 0 and not buffer.startswith(_TERMINATOR, end):
            self._stuffed = True
            end = buffer.find(_TERMINATOR, end)
        if end < 0:
            if len(buffer) > self._limit:
                self._overflowed = True
                del buffer[: 1 - len(_TERMINATOR)]
            self._scanned = max(0, len(buffer) - len(_TERMINATOR) + 1)
            return None
        framed = b"" if self._overflowed else bytes(memoryview(buffer)[: end + 2])
        del buffer[: end + len(_TERMINATOR)]
        return framed.replace(b"\r\n.", b"\r\n") if self._stuffed else framed


def stuff(data: bytes) -> bytes:
    """Data with leading dots doubled; the very same object where there are none."""
    if b"\r\n." in data:
        data = data.replace(b"\r\n.", b"\r\n..")
    return b"." + data if data.startswith(b".") else data


def terminator_after(data: bytes) -> bytes:
    """What ends this data."""
    return b".\r\n" if data.endswith(b"\r\n") or not data else _TERMINATOR


def flaw(data: bytes) -> str | None:
    """Which octet makes this data unfit to be relayed: a NUL, or a CR or LF that is not part of a CRLF."""
    rest = b"".join(data.split(b"\r\n"))
    if b"\n" in rest:
        return "bare LF"
    if b"\r" in rest:
        return "bare CR"
    return "NUL" if b"\0" in rest else None

"""Content transfer encodings of bodies (RFC 2045 sections 6.7 and 6.8): 7-bit output, lines of at most 76."""

from __future__ import annotations

import re
from binascii import b2a_base64, b2a_qp

QUOTED_PRINTABLE, BASE64 = "quoted-printable", "base64"

_QUOTED = b"=" + bytes(range(127, 256))
_encodes_as_itself = re.compile("[ -<>-~]{1,75}").fullmatch


def canonical(text: str) -> str:
    """Lines end in LF alone, whatever they ended in; NUL is gone."""
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")


def encode_quoted_printable(text: str) -> str:
    """The end of a body. `text` is canonical, here and below."""
    return b2a_qp(text.encode()).replace(b"\n", b"\r\n").decode("ascii")


def encode_quoted_printable_piece(text: str) -> str:
    """A piece of a body that more follows: it ends in a soft line break, so that the next piece starts a line.

    Pieces can so be encoded apart, the constant ones once for all recipients.
    """
    if _encodes_as_itself(text):
        return text + "=\r\n"
    if not text:
        return ""
    # A sentinel `=` becomes `=3D`; without its last two characters it is the soft break, and line length is right.
    return b2a_qp(text.encode() + b"=")[:-2].replace(b"\n", b"\r\n").decode("ascii") + "\r\n"


def encode_base64(text: str) -> str:
    encoded = b2a_base64(text.replace("\n", "\r\n").encode(), newline=False).decode("ascii")
    return "\r\n".join([encoded[i : i + 76] for i in range(0, len(encoded), 76)])


def shorter_encoding(text: str) -> str:
    """Which encoding makes fewer bytes of this text."""
    data = text.encode()
    quoted = len(data) - len(data.translate(None, _QUOTED))
    return BASE64 if 3 * quoted > len(data) // 3 + quoted + 8 else QUOTED_PRINTABLE

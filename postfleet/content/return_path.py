"""Return paths that name their message: `b-<token>@<bounce domain>` (VERP).

The token is lower-case base32, without padding, of tenant (4 bytes), transmission (10), index (3) and expiry in
hours since the epoch (3), followed by the first 16 bytes of their HMAC-SHA256. Its local part is 60 characters long,
under the 64 of RFC 5321 section 4.5.3.1.1, and survives hosts that change the case of local parts. It depends on the
message alone, never on the attempt, so that all copies of a message carry the same one.
"""

from __future__ import annotations

import hmac
import math
from base64 import b32decode, b32encode

from msgspec import Struct

HOUR = 3600

_TAG = 16
_FIELDS = 20
_TOKEN = 58


class ReturnPath(Struct, frozen=True):
    """What a return path says. `expires` is in Unix seconds, a whole hour; whoever reads it compares."""

    tenant: int
    transmission: str
    index: int
    expires: int


def encode(key: bytes, tenant: int, transmission: str, index: int, expires: float, domain: str) -> str:
    """The return path of a message. `expires` (Unix seconds) is rounded up to the hour.

    `transmission` is a decimal number without leading zeros. Raises `OverflowError` if a number is too large for its
    field.
    """
    fields = (
        tenant.to_bytes(4, "big")
        + int(transmission).to_bytes(10, "big")
        + index.to_bytes(3, "big")
        + math.ceil(expires / HOUR).to_bytes(3, "big")
    )
    token = b32encode(fields + _tag(key, fields))[:_TOKEN].decode()
    return f"b-{token.lower()}@{domain}"


def decode(key: bytes, address: str) -> ReturnPath | None:
    """What `address` says, if this key signed it; None for any other address. Letter case does not matter."""
    token = _token(address)
    if token is None:
        return None
    fields, tag = token[:_FIELDS], token[_FIELDS:]
    if not hmac.compare_digest(tag, _tag(key, fields)):
        return None
    return ReturnPath(
        tenant=int.from_bytes(fields[:4], "big"),
        transmission=str(int.from_bytes(fields[4:14], "big")),
        index=int.from_bytes(fields[14:17], "big"),
        expires=int.from_bytes(fields[17:], "big") * HOUR,
    )


def _token(address: str) -> bytes | None:
    local_part = address.partition("@")[0]
    if len(local_part) != 2 + _TOKEN or local_part[:2] not in ("b-", "B-"):
        return None
    try:
        return b32decode(local_part[2:] + "======", casefold=True)
    except ValueError:
        return None


def _tag(key: bytes, fields: bytes) -> bytes:
    return hmac.digest(key, fields, "sha256")[:_TAG]

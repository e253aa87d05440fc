"""The password at the proxy: a token that opens one target from one source, for a while.

    token = base64url( HMAC-SHA256(key, source, target, grant) + grant )
    grant = JSON array: expiry, limit key, most connections, policy version, connections a minute

Source and target travel in the SOCKS5 user name and request; the signature
covers them, so that a stolen token opens nothing else.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from enum import StrEnum
from ipaddress import ip_address

import msgspec
from msgspec import Struct

LONGEST_LIMIT_KEY = 100
"""Bytes of JSON; a longer limit key is counted under its digest."""
_MAC_SIZE = 32


class Grant(Struct, frozen=True, array_like=True):
    """The part that the token carries. Grows at its end."""

    expires: int
    limit_key: str
    max_connections: int
    policy_version: int
    connections_per_minute: int = 0


class Claims(Struct, frozen=True, kw_only=True):
    """What the holder may do: connect from the binding's public IP `source` to `host`:`port`.

    At most `max_connections` are open for (source, `limit_key`), and at most `connections_per_minute` begin within a
    minute (0: as many as like). Of several claims, those with the highest `policy_version` say how many. `expires` is
    in Unix seconds.
    """

    source: str
    host: str
    port: int
    limit_key: str
    max_connections: int
    policy_version: int
    expires: int
    connections_per_minute: int = 0


class Denial(StrEnum):
    MALFORMED = "token malformed"
    FORGED = "token not for this source and target"
    EXPIRED = "token expired"


_decode_grant = msgspec.json.Decoder(Grant).decode


def sign(key: bytes, claims: Claims) -> str:
    """The SOCKS5 password; the user name to go with it is `claims.source`. Raises `ValueError` for bad addresses."""
    grant = msgspec.json.encode(
        Grant(
            claims.expires,
            _short(claims.limit_key),
            claims.max_connections,
            claims.policy_version,
            claims.connections_per_minute,
        )
    )
    mac = _mac(key, claims.source, claims.host, claims.port, grant)
    return base64.urlsafe_b64encode(mac + grant).rstrip(b"=").decode()


def verify(key: bytes, username: str, token: str, target: tuple[str, int], now: float) -> Claims | Denial:
    """What a token grants to `username` for `target` (IP address, port) at `now`, Unix seconds."""
    try:
        source = str(ip_address(username))
        data = _unpack(token)
        mac = _mac(key, source, *target, data[_MAC_SIZE:])
    except ValueError:
        return Denial.MALFORMED
    if not hmac.compare_digest(mac, data[:_MAC_SIZE]):
        return Denial.FORGED
    try:
        grant = _decode_grant(data[_MAC_SIZE:])
    except msgspec.DecodeError:
        return Denial.MALFORMED
    if now >= grant.expires:
        return Denial.EXPIRED
    return Claims(
        source=source,
        host=target[0],
        port=target[1],
        limit_key=grant.limit_key,
        max_connections=grant.max_connections,
        policy_version=grant.policy_version,
        expires=grant.expires,
        connections_per_minute=grant.connections_per_minute,
    )


def _short(limit_key: str) -> str:
    data = msgspec.json.encode(limit_key)
    return limit_key if len(data) <= LONGEST_LIMIT_KEY else "sha256:" + hashlib.sha256(data).hexdigest()


def _unpack(token: str) -> bytes:
    """Only the one spelling that `sign` produces, so that no two tokens are the same token."""
    try:
        data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(error) from None
    if base64.urlsafe_b64encode(data).rstrip(b"=") != token.encode():
        raise ValueError("not canonical base64url")
    return data


def _mac(key: bytes, source: str, host: str, port: int, grant: bytes) -> bytes:
    scope = (ip_address(source).packed, ip_address(host).packed, port.to_bytes(2, "big"), grant)
    message = b"postfleet proxy token 1" + b"".join(len(part).to_bytes(2, "big") + part for part in scope)
    return hmac.digest(key, message, "sha256")

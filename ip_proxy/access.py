"""Who may connect from where to where. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address

from msgspec import Struct

from ip_proxy.targets import SMTP_PORTS, refusal
from postfleet.socks.server import ConnectRequest
from postfleet.socks.token import Claims, Denial, verify
from postfleet.socks.wire import Reply


class Access(Struct, frozen=True):
    """What this proxy was started with. `sources` maps public addresses to the local ones to bind."""

    key: bytes
    sources: Mapping[str, str]
    ports: frozenset[int] = SMTP_PORTS
    allow_loopback: bool = False


class Granted(Struct, frozen=True):
    claims: Claims
    local: str
    """The address to bind."""


class Denied(Struct, frozen=True):
    code: Reply
    label: str
    """One of few words, for counting."""


_TOKEN_LABELS = {
    Denial.MALFORMED: "token_malformed",
    Denial.FORGED: "token_forged",
    Denial.EXPIRED: "token_expired",
}


def judge(access: Access, request: ConnectRequest, now: float) -> Granted | Denied:
    """`now` in Unix seconds, for the token's expiry."""
    claims = verify(access.key, request.username, request.password, (request.host, request.port), now)
    if isinstance(claims, Denial):
        return Denied(Reply.NOT_ALLOWED, _TOKEN_LABELS[claims])
    local = access.sources.get(claims.source)
    if local is None:
        return Denied(Reply.GENERAL_FAILURE, "source_unknown")
    if refusal(request.host, request.port, access.ports, access.allow_loopback):
        return Denied(Reply.NOT_ALLOWED, "target")
    if ip_address(local).version != ip_address(request.host).version:
        return Denied(Reply.ADDRESS_TYPE_NOT_SUPPORTED, "address_family")
    return Granted(claims, local)

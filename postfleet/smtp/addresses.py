"""Mailboxes and paths of the envelope (RFC 5321 4.1.2, 4.5.3.1; RFC 6531 for what is not ASCII)."""

from __future__ import annotations

import ipaddress
import re

MAX_LOCAL = 64
MAX_DOMAIN = 255
MAX_MAILBOX = 254
"""A path is at most 256 octets with its angle brackets."""

_BEYOND = "\u0080-\U0010ffff"


def _mailbox(extra: str) -> str:
    atom = rf"[A-Za-z0-9!#$%&'*+/=?^_`{{|}}~{extra}-]++"
    quoted = rf'"(?:[ !#-\[\]-~{extra}]|\\[ -~])*"'
    return rf"(?P<local>{atom}(?:\.{atom})*|{quoted})@(?P<domain>{_domain(extra)}|\[[A-Za-z0-9.:]++\])"


def _domain(extra: str) -> str:
    label = rf"[A-Za-z0-9{extra}](?:[A-Za-z0-9{extra}-]{{0,61}}[A-Za-z0-9{extra}])?"
    return rf"{label}(?:\.{label})*"


def _path(extra: str) -> re.Pattern[str]:
    route = rf"(?:@{_domain(extra)}(?:,@{_domain(extra)})*:)?"
    return re.compile(rf"<(?:{route}(?P<mailbox>{_mailbox(extra)}))?>(?: +(?P<rest>.*))?")


_MAILBOX = re.compile(_mailbox(""))
_MAILBOX_UTF8 = re.compile(_mailbox(_BEYOND))
_PATH = _path("")
_PATH_UTF8 = _path(_BEYOND)


class BadAddress(ValueError):
    """The text is no address; the message says why."""


def check_mailbox(text: str, utf8: bool = False) -> None:
    """Raises `BadAddress` unless this is `local-part@domain` as an envelope may carry it."""
    match = (_MAILBOX_UTF8 if utf8 else _MAILBOX).fullmatch(text)
    if match is None:
        raise BadAddress("not a valid address")
    _check_lengths(match)


def parse_path(text: str, utf8: bool = False) -> tuple[str, str]:
    """`<address> rest` -> (address, rest). The null path gives an empty address; a source route is dropped."""
    match = (_PATH_UTF8 if utf8 else _PATH).fullmatch(text)
    if match is None:
        raise BadAddress("not a valid address in angle brackets")
    mailbox, rest = match.group("mailbox", "rest")
    if mailbox:
        _check_lengths(match)
    return mailbox or "", rest or ""


def split_mailbox(address: str) -> tuple[str, str]:
    """(local part as written, domain in lower case)."""
    local, _, domain = address.rpartition("@")
    return local, domain.lower()


def _check_lengths(match: re.Match[str]) -> None:
    local, domain = match.group("local", "domain")
    if len(local) + len(domain) < MAX_LOCAL and local.isascii() and not domain.startswith("["):
        return
    octets = len(local.encode()), len(domain.encode())
    if octets[0] > MAX_LOCAL:
        raise BadAddress(f"local part longer than {MAX_LOCAL} octets")
    if octets[1] > MAX_DOMAIN or sum(octets) >= MAX_MAILBOX:
        raise BadAddress(f"address longer than {MAX_MAILBOX} octets")
    if domain.startswith("["):
        _check_literal(domain[1:-1])


def _check_literal(literal: str) -> None:
    try:
        if literal.lower().startswith("ipv6:"):
            ipaddress.IPv6Address(literal[5:])
        else:
            ipaddress.IPv4Address(literal)
    except ValueError:
        raise BadAddress("not a valid address literal") from None

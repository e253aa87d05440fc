"""Mail addresses and the mailbox lists of address headers (RFC 5321 section 4.1.2, RFC 5322 section 3.4).

Addresses are ASCII: an internationalised domain becomes its A-labels, a local
part outside ASCII is refused, since it could only go to servers with SMTPUTF8.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

import idna

from postfleet.smtp.addresses import MAX_DOMAIN, MAX_LOCAL, BadAddress, check_mailbox

_DOT_ATOM = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++)*")
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MAILBOX = re.compile(
    r"""\s*+(?:
        (?: "(?P<quoted>(?:[^"\\]|\\.)*)"\s*+ | (?P<phrase>[^"<>,]*) ) <(?P<angle>[^<>]*)>
        | (?P<bare> "(?:[^"\\]|\\.)*"@[^\s,<>"]+ | [^\s,<>"]+ )
    )\s*+(?:,|\Z)""",
    re.VERBOSE | re.DOTALL,
)


class InvalidAddress(ValueError):
    """Says what is wrong with which address."""


def parse_address(text: str) -> str:
    """`Ann@Example.COM` -> `Ann@example.com`, ready for an envelope. Raises `InvalidAddress`."""
    local, _, domain = text.rpartition("@")
    address = f"{local}@{parse_domain(domain)}"
    try:
        check_mailbox(address)
    except BadAddress as error:
        raise InvalidAddress(f"{text[:320]!r}: {error}") from None
    if " " in local:
        raise InvalidAddress(f"{text[:320]!r}: an address must not have spaces")
    return address


def parse_domain(domain: str) -> str:
    """Lower case, A-labels. Raises `InvalidAddress`; address literals are refused."""
    name = domain.lower()
    if not name.isascii():
        if len(name) > MAX_DOMAIN:
            raise InvalidAddress(f"{domain[:260]!r} is not a domain name")
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise InvalidAddress(f"domain {domain!r}: {error}") from None
    if len(name) > MAX_DOMAIN or not _DOMAIN.fullmatch(name) or name[name.rfind(".") + 1 :].isdigit():
        raise InvalidAddress(f"{domain[:260]!r} is not a domain name")
    return name


def quote_local_part(value: str) -> str:
    """Any text as a local part that is valid in a header: cut to its longest, what ASCII cannot say as `?`."""
    value = value[:MAX_LOCAL]
    if _DOT_ATOM.fullmatch(value):
        return value
    printable = re.sub(r"[^ -~]", "?", value)
    return '"' + re.sub(r'([\\"])', r"\\\1", printable) + '"'


def split_mailboxes(text: str) -> Iterator[tuple[str, str]]:
    """(display name, address) of each mailbox of a list; neither is validated. Raises `InvalidAddress`."""
    position = 0
    while position < len(text) or not position:
        match = _MAILBOX.match(text, position)
        if match is None:
            raise InvalidAddress(f"{text[position : position + 80]!r} is not a mailbox list")
        if match["bare"] is not None:
            yield "", match["bare"]
        elif match["quoted"] is not None:
            yield re.sub(r"\\(.)", r"\1", match["quoted"], flags=re.DOTALL), match["angle"].strip()
        else:
            yield match["phrase"].strip(), match["angle"].strip()
        position = match.end()

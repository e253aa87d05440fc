"""The arguments of MAIL and RCPT (RFC 5321 4.1.2, RFC 1870, RFC 6152, RFC 6531)."""

from __future__ import annotations

from collections.abc import Collection

from postfleet.smtp.addresses import BadAddress, parse_path
from postfleet.smtp.replies import Reply

MAIL_PARAMETERS = {"SIZE": "SIZE", "BODY": "8BITMIME", "SMTPUTF8": "SMTPUTF8", "AUTH": "AUTH"}
"""Parameter of MAIL -> the extension that defines it."""


class BadCommand(Exception):
    """A command that is answered by an error."""

    def __init__(self, code: int, enhanced: str, text: str) -> None:
        super().__init__(text)
        self.reply = Reply(code, enhanced, text)


def parse_mail(argument: str, extensions: Collection[str], utf8: bool) -> tuple[str, dict[str, str]]:
    """`FROM:<path> parameters` -> (sender, parameters by upper-case name)."""
    sender, rest = _path(argument, "FROM:", "5.1.7", utf8)
    parameters = _parameters(rest) if rest else {}
    for name, value in parameters.items():
        if MAIL_PARAMETERS.get(name) not in extensions:
            raise BadCommand(555, "5.5.4", f"Parameter {name} is not supported")
        _check_parameter(name, value)
    return sender, parameters


def parse_rcpt(argument: str, utf8: bool) -> str:
    """`TO:<path>` -> the recipient."""
    address, rest = _path(argument, "TO:", "5.1.3", utf8)
    if not address:
        raise BadCommand(501, "5.1.3", "A recipient address is needed")
    if rest:
        raise BadCommand(555, "5.5.4", "No parameters are supported with RCPT")
    return address


def _path(argument: str, keyword: str, enhanced: str, utf8: bool) -> tuple[str, str]:
    if argument[: len(keyword)].upper() != keyword:
        raise BadCommand(501, "5.5.4", f"Syntax: {keyword}<address>")
    try:
        return parse_path(argument[len(keyword) :].strip(), utf8)
    except BadAddress as error:
        raise BadCommand(553, enhanced, f"Bad address syntax: {error}") from None


def _parameters(text: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        if name.upper() in found:
            raise BadCommand(501, "5.5.4", f"Parameter {name.upper()} given twice")
        found[name.upper()] = value
    return found


def _check_parameter(name: str, value: str) -> None:
    if name == "SIZE" and not (value.isascii() and value.isdigit() and len(value) <= 20):
        raise BadCommand(501, "5.5.4", "SIZE wants a number of octets")
    if name == "BODY" and value.upper() not in ("7BIT", "8BITMIME"):
        raise BadCommand(501, "5.5.4", "BODY wants 7BIT or 8BITMIME")

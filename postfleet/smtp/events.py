"""What a server can be told to offer, and what it reports to be answered."""

from __future__ import annotations

from msgspec import Struct

EXTENSIONS = ("PIPELINING", "8BITMIME", "SIZE", "ENHANCEDSTATUSCODES")


class ServerConfig(Struct, frozen=True, kw_only=True):
    """`extensions` may also name SMTPUTF8. `auth` names SASL mechanisms (PLAIN, LOGIN); empty offers none."""

    hostname: str
    max_size: int = 20 * 1024 * 1024
    max_recipients: int = 1000
    extensions: tuple[str, ...] = EXTENSIONS
    auth: tuple[str, ...] = ()
    max_errors: int = 20
    """Replies of 5xx after which the connection is closed; an accepted message starts the count again."""


class Connected(Struct, frozen=True):
    """The connection is open; accepting it sends the greeting."""


class Hello(Struct, frozen=True):
    """Accepting it announces the extensions; a reply of the caller's own goes out as it is."""

    name: str
    extended: bool


class Auth(Struct, frozen=True):
    mechanism: str
    user: str
    password: str


class Mail(Struct, frozen=True):
    """`sender` is empty for the null path; `parameters` by upper-case name."""

    sender: str
    parameters: dict[str, str]


class Rcpt(Struct, frozen=True):
    address: str


class Data(Struct, frozen=True):
    """Accepting it sends 354."""


class MessageReceived(Struct, frozen=True):
    """`data` ends with CRLF unless empty, has no stuffed dots, no NUL, and no CR or LF outside CRLF."""

    sender: str
    recipients: tuple[str, ...]
    data: bytes


class Quit(Struct, frozen=True):
    pass


Event = Connected | Hello | Auth | Mail | Rcpt | Data | MessageReceived | Quit

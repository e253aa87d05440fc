"""The server's side of SMTP as a state machine (RFC 5321, 2920, 1870, 2034, 4954, 6152, 6531).

Bytes go in by `receive`; `next_event` says what happened; the caller answers
each event by `accept` or `reply`, now or later, and writes what
`data_to_send` returns. Nothing that came after an event is looked at before
the event is answered.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable
from enum import StrEnum
from functools import lru_cache
from typing import Any

from msgspec import Struct

from postfleet.smtp.commands import BadCommand, parse_mail, parse_rcpt
from postfleet.smtp.events import (
    Auth,
    Connected,
    Data,
    Event,
    Hello,
    Mail,
    MessageReceived,
    Quit,
    Rcpt,
    ServerConfig,
)
from postfleet.smtp.framing import MAX_LINE, LineReader, MessageReader, flaw
from postfleet.smtp.replies import Reply, encode_reply
from postfleet.smtp.sasl import MECHANISMS, BadResponse, Exchange, decode_response, plain

MAX_COMMAND = 2048
MAX_AUTH = MAX_LINE
MAX_HEADER = 100 * 1024
MAX_BACKLOG = 64 * 1024


class State(StrEnum):
    CONNECTED = "connected"
    REFUSED = "refused"
    GREETED = "greeted"
    READY = "ready"
    MAIL = "mail"
    RCPT = "rcpt"
    DATA = "data"
    AUTH = "auth"


_GREETED = frozenset({State.GREETED, State.READY, State.MAIL, State.RCPT})
_ALONE = frozenset({Connected, Hello, Auth, Data})
"""What a client must see answered before it says more (RFC 5321 3.1, RFC 2920 3.1, RFC 4954 4)."""
_HTTP = frozenset({"GET", "POST", "PUT", "HEAD", "OPTIONS", "CONNECT", "DELETE", "PATCH", "TRACE", "PRI"})
_NOT_IMPLEMENTED = frozenset({"EXPN", "BDAT", "ETRN", "STARTTLS", "TURN", "SEND", "SOML", "SAML"})

_MISPLACED = {
    State.REFUSED: "No service here",
    State.GREETED: "Say EHLO first",
    State.READY: "Say MAIL first",
    State.MAIL: "A transaction is open: finish it, or say RSET",
    State.RCPT: "A transaction is open: finish it, or say RSET",
}
_OUT_OF_STEP = Reply(554, "5.5.0", "Error: you must wait for my reply (RFC 2920)")
_TOO_MANY_ERRORS = Reply(421, "4.7.0", "Too many errors")
_OK = Reply(250, "2.0.0", "Ok")
_ACCEPTED: dict[type[Event] | bool, Reply] = {
    Auth: Reply(235, "2.7.0", "Authentication successful"),
    Mail: Reply(250, "2.1.0", "Ok"),
    Rcpt: Reply(250, "2.1.5", "Ok"),
    Data: Reply(354, "", "End data with <CR><LF>.<CR><LF>"),
    MessageReceived: _OK,
    Quit: Reply(221, "2.0.0", "Bye"),
}


@lru_cache(maxsize=64)
def _usual_replies(config: ServerConfig) -> dict[type[Event] | bool, bytes]:
    """What accepting an event says, by its type; for Hello, by whether it was extended."""
    enhanced = "ENHANCEDSTATUSCODES" in config.extensions
    usual: dict[type[Event] | bool, Reply] = {
        **_ACCEPTED,
        Connected: Reply(220, "", f"{config.hostname} ESMTP"),
        False: Reply(250, "", config.hostname),
        True: Reply(250, "", "\n".join([config.hostname, *_offers(config)])),
    }
    return {event: encode_reply(reply, enhanced) for event, reply in usual.items()}


def _offers(config: ServerConfig) -> list[str]:
    """The lines of the reply to EHLO, but for the first."""
    offers = [f"SIZE {config.max_size}" if extension == "SIZE" else extension for extension in config.extensions]
    return [*offers, "AUTH " + " ".join(config.auth)] if config.auth else offers


class Server:
    """One connection. `closed`: write what is to be sent, then close."""

    def __init__(self, config: ServerConfig) -> None:
        self.config = config
        self.closed = False
        self.errors = 0
        self.authenticated = False
        self.hello: Hello | None = None
        self._state = State.CONNECTED
        self._pending: Event | None = None
        self._buffer = bytearray()
        self._lines = LineReader()
        self._messages = MessageReader(config.max_size)
        self._output: list[bytes] = []
        self._exchange: Exchange = plain(None)
        self._mechanism = ""
        self._sender = ""
        self._recipients: list[str] = []
        self._enhanced = "ENHANCEDSTATUSCODES" in config.extensions
        self._utf8 = "SMTPUTF8" in config.extensions
        self._usual = _usual_replies(config)

    # ------------------------------------------------------------ the caller's side

    @property
    def idle(self) -> bool:
        """Between transactions, with nothing to answer and nothing half received."""
        return self._state in (State.GREETED, State.READY) and not (self._pending or self._buffer)

    @property
    def congested(self) -> bool:
        """More input waits for an answer than one should read ahead."""
        return self._pending is not None and len(self._buffer) > MAX_BACKLOG

    def receive(self, data: bytes) -> None:
        if not self.closed:
            self._buffer += data

    def next_event(self) -> Event | None:
        """The next event; None when more input is needed or the last event is not answered yet."""
        if self._pending is not None:
            return None
        while self._pending is None and not self.closed and self._has_input() and self._step():
            pass
        return self._pending

    def _has_input(self) -> bool:
        return bool(self._buffer) or self._state is State.CONNECTED

    def accept(self) -> None:
        """Answer the event with the usual positive reply."""
        event = self._answered()
        if self._out_of_step(event):
            return
        self._pending = None
        self._take_effect(event)
        self._output.append(self._usual[event.extended if isinstance(event, Hello) else type(event)])
        if isinstance(event, Quit):
            self.close()

    def reply(self, reply: Reply) -> None:
        """Answer the event. A code below 400 accepts it; 421 also ends the connection."""
        event = self._answered()
        if self._out_of_step(event):
            return
        self._pending = None
        if reply.positive:
            self._take_effect(event)
        if reply.code == 421 or isinstance(event, Quit):
            self.close(reply)
        else:
            self._say(reply)

    def close(self, reply: Reply | None = None) -> None:
        """End the connection now, whatever is under way."""
        if reply is not None and not self.closed:
            self._output.append(encode_reply(reply, self._enhanced))
        self.closed = True
        self._pending = None
        self._buffer.clear()

    def data_to_send(self) -> bytes:
        output, self._output = self._output, []
        return b"".join(output)

    # ------------------------------------------------------------ replies

    def _answered(self) -> Event:
        if self._pending is None:
            raise RuntimeError("there is no event to answer")
        return self._pending

    def _out_of_step(self, event: Event) -> bool:
        """Whether the client went on where it had to wait; that ends the connection."""
        if self._buffer and type(event) in _ALONE:
            self.close(_OUT_OF_STEP)
            return True
        return False

    def _take_effect(self, event: Event) -> None:
        if effect := _EFFECTS.get(type(event)):
            effect(self, event)

    def _say(self, reply: Reply) -> None:
        self._output.append(encode_reply(reply, self._enhanced))
        if reply.permanent:
            self.errors += 1
            if self.errors >= self.config.max_errors:
                self.close(_TOO_MANY_ERRORS)

    # ------------------------------------------------------------ input

    def _step(self) -> bool:
        """Consume one command line or one message; False when there is none."""
        if self._state is State.CONNECTED:
            self._state, self._pending = State.REFUSED, Connected()
            return True
        try:
            return self._read_message() if self._state is State.DATA else self._read_line()
        except BadCommand as error:
            self._say(error.reply)
            return True

    def _read_line(self) -> bool:
        line = self._lines.take(self._buffer)
        if line is None:
            return False
        if self._state is State.AUTH:
            self._respond(line)
        else:
            self._command(line)
        return True

    def _command(self, line: bytes) -> None:
        text = self._text(line, MAX_AUTH if line[:5].upper() == b"AUTH " else MAX_COMMAND)
        verb, _, argument = text.partition(" ")
        command = _COMMANDS.get(verb.upper())
        if command is None:
            self._unknown(verb.upper())
        elif command.alone and self._buffer:
            self.close(_OUT_OF_STEP)
        elif self._state not in command.states:
            raise BadCommand(503, "5.5.1", _MISPLACED[self._state])
        else:
            command.run(self, argument.strip())

    def _text(self, line: bytes, limit: int) -> str:
        if len(line) > limit:
            raise BadCommand(500, "5.5.2", "Line too long")
        if not line.endswith(b"\r\n"):
            raise BadCommand(500, "5.5.2", "Lines must end with CRLF")
        try:
            text = line[:-2].decode("utf-8" if self._utf8 else "ascii")
        except UnicodeDecodeError:
            raise BadCommand(501, "5.5.2", "Illegal characters in command") from None
        if not text.isprintable():
            raise BadCommand(501, "5.5.2", "Illegal characters in command")
        return text

    def _unknown(self, verb: str) -> None:
        if verb in _HTTP:
            self.close(Reply(554, "5.5.1", "This is an SMTP server"))
        elif verb in _NOT_IMPLEMENTED:
            raise BadCommand(502, "5.5.1", "Command not implemented")
        else:
            raise BadCommand(500, "5.5.2", "Command not recognised")

    # ------------------------------------------------------------ commands

    def _ehlo(self, argument: str) -> None:
        self._introduce(argument, extended=True)

    def _helo(self, argument: str) -> None:
        self._introduce(argument, extended=False)

    def _introduce(self, name: str, extended: bool) -> None:
        if not name or " " in name or len(name) > 255:
            raise BadCommand(501, "5.5.4", "Say your host name after HELO or EHLO")
        self._pending = Hello(name, extended)

    def _mail(self, argument: str) -> None:
        sender, parameters = parse_mail(argument, self._extensions(), self._utf8)
        if int(parameters.get("SIZE", 0)) > self.config.max_size:
            raise BadCommand(552, "5.3.4", f"Message larger than {self.config.max_size} octets")
        self._pending = Mail(sender, parameters)

    def _extensions(self) -> tuple[str, ...]:
        return (*self.config.extensions, "AUTH") if self.config.auth else self.config.extensions

    def _rcpt(self, argument: str) -> None:
        address = parse_rcpt(argument, self._utf8)
        if len(self._recipients) >= self.config.max_recipients:
            raise BadCommand(452, "4.5.3", "Too many recipients")
        self._pending = Rcpt(address)

    def _data(self, argument: str) -> None:
        if argument:
            raise BadCommand(501, "5.5.4", "DATA takes no argument")
        if self._state is State.MAIL:
            raise BadCommand(554, "5.5.1", "No valid recipients")
        self._pending = Data()

    def _rset(self, argument: str) -> None:
        if self._state is not State.GREETED:
            self._forget()
        self._say(_OK)

    def _noop(self, argument: str) -> None:
        self._say(_OK)

    def _vrfy(self, argument: str) -> None:
        self._say(Reply(252, "2.1.5", "Send some mail, and I will try to deliver it"))

    def _help(self, argument: str) -> None:
        self._say(Reply(214, "2.0.0", "See RFC 5321"))

    def _quit(self, argument: str) -> None:
        self._pending = Quit()

    # ------------------------------------------------------------ AUTH

    def _auth(self, argument: str) -> None:
        name, _, initial = argument.partition(" ")
        if not self.config.auth:
            raise BadCommand(502, "5.5.1", "AUTH is not offered here")
        if self.authenticated:
            raise BadCommand(503, "5.5.1", "Already authenticated")
        if name.upper() not in self.config.auth:
            raise BadCommand(504, "5.5.4", "Mechanism not offered")
        self._mechanism = name.upper()
        self._converse(lambda: self._first_challenge(initial))

    def _first_challenge(self, initial: str) -> bytes:
        self._exchange = MECHANISMS[self._mechanism](decode_response(initial) if initial else None)
        return next(self._exchange)

    def _respond(self, line: bytes) -> None:
        self._state = State.READY
        if self._buffer:
            self.close(_OUT_OF_STEP)
            return
        text = self._text(line, MAX_AUTH)
        if text == "*":
            raise BadCommand(501, "5.7.0", "Authentication cancelled")
        self._converse(lambda: self._exchange.send(decode_response(text)))

    def _converse(self, step: Callable[[], bytes]) -> None:
        try:
            challenge = step()
        except BadResponse as error:
            raise BadCommand(501, "5.5.2", f"Bad response: {error}") from None
        except StopIteration as end:
            self._pending = Auth(self._mechanism, *end.value)
        else:
            self._state = State.AUTH
            self._say(Reply(334, "", b64encode(challenge).decode()))

    # ------------------------------------------------------------ message data

    def _read_message(self) -> bool:
        framed = self._messages.take(self._buffer)
        if framed is None:
            return False
        sender, recipients = self._sender, tuple(self._recipients)
        self._forget()
        self._pending = MessageReceived(sender, recipients, self._checked(framed))
        return True

    def _checked(self, framed: bytes) -> bytes:
        data = framed[2:]
        if not framed or len(data) > self.config.max_size:
            raise BadCommand(552, "5.3.4", f"Message larger than {self.config.max_size} octets")
        if len(framed) > MAX_HEADER and framed.find(b"\r\n\r\n", 0, MAX_HEADER) < 0:
            raise BadCommand(552, "5.3.4", f"Message header larger than {MAX_HEADER} octets")
        if found := flaw(framed):
            raise BadCommand(550, "5.6.11", f"Message contains a {found}")
        return data

    # ------------------------------------------------------------ what an accepted event changes

    def _greeted(self, event: Connected) -> None:
        self._state = State.GREETED

    def _introduced(self, event: Hello) -> None:
        self.hello = event
        self._forget()

    def _authorised(self, event: Auth) -> None:
        self.authenticated = True

    def _sender_accepted(self, event: Mail) -> None:
        self._sender, self._state = event.sender, State.MAIL

    def _recipient_accepted(self, event: Rcpt) -> None:
        self._recipients.append(event.address)
        self._state = State.RCPT

    def _data_wanted(self, event: Data) -> None:
        self._state = State.DATA
        self._messages.begin(self._buffer)

    def _message_accepted(self, event: MessageReceived) -> None:
        self.errors = 0

    def _forget(self) -> None:
        """Ends the transaction (RFC 5321 4.1.1.5)."""
        self._sender, self._recipients, self._state = "", [], State.READY


class _Command(Struct, frozen=True):
    """`alone`: the client must await the reply before it says more (RFC 2920 3.1, RFC 4954 4)."""

    run: Callable[[Server, str], None]
    states: frozenset[State] = _GREETED
    alone: bool = False


_COMMANDS = {
    "EHLO": _Command(Server._ehlo, alone=True),
    "HELO": _Command(Server._helo, alone=True),
    "AUTH": _Command(Server._auth, frozenset({State.READY}), alone=True),
    "MAIL": _Command(Server._mail, frozenset({State.READY})),
    "RCPT": _Command(Server._rcpt, frozenset({State.MAIL, State.RCPT})),
    "DATA": _Command(Server._data, frozenset({State.MAIL, State.RCPT}), alone=True),
    "RSET": _Command(Server._rset),
    "NOOP": _Command(Server._noop),
    "VRFY": _Command(Server._vrfy),
    "HELP": _Command(Server._help),
    "QUIT": _Command(Server._quit, _GREETED | {State.REFUSED}),
}

_EFFECTS: dict[type[Event], Callable[[Server, Any], None]] = {
    Connected: Server._greeted,
    Hello: Server._introduced,
    Auth: Server._authorised,
    Mail: Server._sender_accepted,
    Rcpt: Server._recipient_accepted,
    Data: Server._data_wanted,
    MessageReceived: Server._message_accepted,
}

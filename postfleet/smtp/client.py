"""The client's side of SMTP as a state machine: one recipient per transaction (RFC 5321, 2920, 1870).

Replies go in by `receive`, events come out; after each call the caller writes
what `data_to_send` returns. A transaction begins with `mail` and ends in
exactly one `Result`, or in a `Closing` or `ProtocolError` without one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping

from msgspec import Struct

from postfleet.smtp.addresses import BadAddress, check_mailbox
from postfleet.smtp.framing import stuff, terminator_after
from postfleet.smtp.replies import BadReply, Reply, ReplyReader


class Ready(Struct, frozen=True):
    """The first `mail` may be called. Extensions by upper-case keyword, with their parameters."""

    extensions: Mapping[str, str]


class BodyWanted(Struct, frozen=True):
    """The server waits for the message: call `body`."""


class Result(Struct, frozen=True):
    """What became of the transaction, or at stage `greeting` or `ehlo` of the whole connection.

    `stage`: greeting, ehlo, mail, rcpt, data or final. `local`: decided here; nothing was sent.
    """

    stage: str
    reply: Reply
    accepted: bool
    local: bool = False


class Idle(Struct, frozen=True):
    """The next `mail` may be called."""


class Closing(Struct, frozen=True):
    """The connection is over: a 421, or its end without one (`reply` is None).

    `stage` as in `Result`, or `idle`. `indeterminate`: the final dot was handed over and never answered.
    """

    stage: str
    reply: Reply | None
    indeterminate: bool


class ProtocolError(Struct, frozen=True):
    """The server did not speak SMTP; the connection is over. A temporary failure, unless `indeterminate`."""

    stage: str
    reason: str
    indeterminate: bool


Event = Ready | BodyWanted | Result | Idle | Closing | ProtocolError


class Client:
    """One connection. `stepwise`: never pipeline, whatever the server offers. `closed`: write what is to be sent, then
    close without waiting for more."""

    def __init__(self, ehlo_name: str, stepwise: bool = False) -> None:
        self.ehlo_name = ehlo_name
        self.extensions: Mapping[str, str] = {}
        self.closed = False
        self._stepwise = stepwise
        self._reader = ReplyReader()
        self._awaiting = deque(["greeting"])
        self._undecided = False
        self._open = False
        """The server holds a transaction that only RSET ends."""
        self._ready = False
        self._body_wanted = False
        self._recipient = ""
        self._output: list[bytes] = []
        self._events: list[Event] = []

    # ------------------------------------------------------------ the caller's side

    @property
    def stage(self) -> str:
        """What the server is asked at the moment: a stage of `Result`, or `idle`."""
        if self._awaiting:
            return _STAGES[self._awaiting[0]].name
        return "data" if self._body_wanted else "idle"

    @property
    def deadline(self) -> float | None:
        """Seconds that the server may take for what is asked of it (RFC 5321 4.5.3.2); None while nothing is."""
        return _STAGES[self._awaiting[0]].deadline if self._awaiting else None

    @property
    def idle(self) -> bool:
        return self._ready and not (self._awaiting or self._body_wanted or self.closed)

    @property
    def max_size(self) -> int | None:
        """The largest message that the server takes, in octets; None when it did not say."""
        size = self.extensions.get("SIZE", "")
        return int(size) if size.isascii() and size.isdigit() and len(size) < 20 and int(size) else None

    def receive(self, data: bytes) -> list[Event]:
        if not self.closed:
            self._reader.feed(data)
            self._read_replies()
        return self._take_events()

    def eof(self) -> list[Event]:
        """The connection ended, or the caller gave up on it (a deadline passed)."""
        if not self.closed:
            self._end(Closing(self.stage, None, self._indeterminate))
        return self._take_events()

    def mail(self, sender: str, recipient: str, size: int, eight_bit: bool = False) -> Result | None:
        """Begin a transaction; `size` in octets. A `Result` when this server cannot be asked: the client stays idle."""
        if not self.idle:
            raise RuntimeError(f"mail() at stage {self.stage}: wait for Idle")
        refusal = self._refusal(sender, recipient, size)
        if refusal is not None:
            return Result("mail", refusal, accepted=False, local=True)
        self._undecided, self._recipient = True, recipient
        if self._open:
            self._ask("rset", "RSET")
        self._ask("mail", self._mail_command(sender, recipient, size, eight_bit))
        if self._pipelining:
            self._ask("rcpt", f"RCPT TO:<{recipient}>")
            self._ask("data", "DATA")
        return None

    def body(self, data: bytes) -> list[bytes]:
        """The buffers to write: the message, every line of which ends in CRLF, and its end."""
        if not self._body_wanted:
            raise RuntimeError(f"body() at stage {self.stage}: wait for BodyWanted")
        self._body_wanted = False
        self._awaiting.append("final")
        return [stuff(data), terminator_after(data)]

    def quit(self) -> None:
        """Say QUIT; its reply is not awaited."""
        if not self.closed:
            self._output.append(b"QUIT\r\n")
        self.closed = True

    def data_to_send(self) -> bytes:
        output, self._output = self._output, []
        return b"".join(output)

    # ------------------------------------------------------------ asking

    @property
    def _pipelining(self) -> bool:
        return "PIPELINING" in self.extensions and not self._stepwise

    @property
    def _indeterminate(self) -> bool:
        return bool(self._awaiting) and self._awaiting[0] == "final"

    def _ask(self, stage: str, command: str) -> None:
        self._awaiting.append(stage)
        self._output.append(command.encode() + b"\r\n")

    def _refusal(self, sender: str, recipient: str, size: int) -> Reply | None:
        utf8 = "SMTPUTF8" in self.extensions
        limit = self.max_size
        if limit is not None and size > limit:
            return Reply(552, "5.3.4", f"message of {size} octets is larger than the {limit} that the host takes")
        if not utf8 and not (sender.isascii() and recipient.isascii()):
            return Reply(553, "5.6.7", "the host takes no internationalised addresses")
        try:
            check_mailbox(recipient, utf8)
            if sender:
                check_mailbox(sender, utf8)
        except BadAddress as error:
            return Reply(553, "5.1.3", f"{error}")
        return None

    def _mail_command(self, sender: str, recipient: str, size: int, eight_bit: bool) -> str:
        words = [f"MAIL FROM:<{sender}>"]
        if "SIZE" in self.extensions:
            words.append(f"SIZE={size}")
        if eight_bit and "8BITMIME" in self.extensions:
            words.append("BODY=8BITMIME")
        if not (sender.isascii() and recipient.isascii()):
            words.append("SMTPUTF8")
        return " ".join(words)

    # ------------------------------------------------------------ hearing

    def _take_events(self) -> list[Event]:
        events, self._events = self._events, []
        return events

    def _read_replies(self) -> None:
        try:
            while not self.closed and (reply := self._reader.next_reply()) is not None:
                self._hear(reply)
        except BadReply as error:
            self._fail(str(error))

    def _hear(self, reply: Reply) -> None:
        if reply.code == 421:
            self._hear_421(reply)
        elif not self._awaiting:
            self._fail(f"unexpected reply: {reply}")
        else:
            stage = _STAGES[self._awaiting[0]]
            accepted = reply.code // 100 == stage.positive
            if reply.positive and not accepted:
                self._fail(f"senseless reply: {reply}")
                return
            self._awaiting.popleft()
            stage.heard(self, reply, accepted)

    def _hear_421(self, reply: Reply) -> None:
        stage = self.stage
        if self._undecided or stage in ("greeting", "ehlo"):
            self._decide(stage, reply)
        self._end(Closing(stage, reply, indeterminate=False))

    def _fail(self, reason: str) -> None:
        self._end(ProtocolError(self.stage, reason, self._indeterminate))

    def _end(self, event: Closing | ProtocolError) -> None:
        self._events.append(event)
        self.closed = True

    def _decide(self, stage: str, reply: Reply, accepted: bool = False) -> None:
        self._undecided = False
        self._events.append(Result(stage, reply, accepted))

    def _rest(self) -> None:
        """The transaction is over; stepwise, one that the server still holds is ended first."""
        if self._open and not self._pipelining:
            self._ask("rset", "RSET")
        else:
            self._events.append(Idle())

    def _heard_greeting(self, reply: Reply, accepted: bool) -> None:
        if accepted:
            self._ask("ehlo", f"EHLO {self.ehlo_name}")
        else:
            self._give_up("greeting", reply)

    def _heard_ehlo(self, reply: Reply, accepted: bool) -> None:
        if accepted:
            self._become_ready(_extensions(reply))
        elif reply.permanent:
            self._ask("helo", f"HELO {self.ehlo_name}")
        else:
            self._give_up("ehlo", reply)

    def _heard_helo(self, reply: Reply, accepted: bool) -> None:
        if accepted:
            self._become_ready({})
        else:
            self._give_up("ehlo", reply)

    def _become_ready(self, extensions: Mapping[str, str]) -> None:
        self.extensions, self._ready = extensions, True
        self._events.append(Ready(extensions))

    def _give_up(self, stage: str, reply: Reply) -> None:
        self._decide(stage, reply)
        self.quit()

    def _heard_rset(self, reply: Reply, accepted: bool) -> None:
        self._open = False
        if not self._awaiting:
            self._events.append(Idle())

    def _heard_mail(self, reply: Reply, accepted: bool) -> None:
        self._open = accepted
        if not accepted:
            self._decide("mail", reply)
        if not self._awaiting:
            self._ask("rcpt", f"RCPT TO:<{self._recipient}>") if accepted else self._rest()

    def _heard_rcpt(self, reply: Reply, accepted: bool) -> None:
        if self._undecided and not accepted:
            self._decide("rcpt", reply)
        if not self._awaiting:
            self._ask("data", "DATA") if accepted else self._rest()

    def _heard_data(self, reply: Reply, accepted: bool) -> None:
        if not accepted:
            if self._undecided:
                self._decide("data", reply)
            self._rest()
        elif self._undecided:
            self._body_wanted = True
            self._events.append(BodyWanted())
        else:
            self._ask("dot", ".")

    def _heard_final(self, reply: Reply, accepted: bool) -> None:
        self._open = False
        self._decide("final", reply, accepted)
        self._rest()

    def _heard_dot(self, reply: Reply, accepted: bool) -> None:
        self._open = False
        self._rest()


class _Stage(Struct, frozen=True):
    """One question to the server: its public name, seconds to answer, class of the positive reply, what follows."""

    name: str
    deadline: float
    positive: int
    heard: Callable[[Client, Reply, bool], None]


_STAGES = {
    "greeting": _Stage("greeting", 300.0, 2, Client._heard_greeting),
    "ehlo": _Stage("ehlo", 300.0, 2, Client._heard_ehlo),
    "helo": _Stage("ehlo", 300.0, 2, Client._heard_helo),
    "rset": _Stage("mail", 300.0, 2, Client._heard_rset),
    "mail": _Stage("mail", 300.0, 2, Client._heard_mail),
    "rcpt": _Stage("rcpt", 300.0, 2, Client._heard_rcpt),
    "data": _Stage("data", 120.0, 3, Client._heard_data),
    "final": _Stage("final", 600.0, 2, Client._heard_final),
    "dot": _Stage("data", 600.0, 2, Client._heard_dot),
}


def _extensions(reply: Reply) -> dict[str, str]:
    """Keywords from an EHLO reply; what no client knows, a masked line for one, does no harm."""
    found = {}
    for line in reply.text.split("\n")[1:]:
        keyword, _, parameters = line.partition(" ")
        found[keyword.upper()] = parameters
    return found

"""The simulated MX hosts: how they answer, and the ledger of what they took.

They note each message before they answer its final dot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct
from simulation.process import EPOCH
from simulation.world import BEFORE, LANDED, Call, World

from postfleet.evidence import QUIT, TIMEOUT, LedgerConnection, LedgerMessage, LedgerRecord

if TYPE_CHECKING:
    from simulation.net import Connection


class Behaviour(Struct, frozen=True, kw_only=True):
    """How the MX treats one recipient."""

    defer: int = 0
    """The first so many attempts are answered 451."""
    block: int = 0
    """The first so many attempts are answered 554 because of the sender's address."""
    bounce: bool = False
    """550, always."""
    at_dot: bool = False
    """Deferrals, blocks and bounces come after the final dot instead of at RCPT."""
    cut: int = 0
    """The first so many times the message is taken, and the connection cut before the reply."""
    slow: float = 0.0
    """Seconds before the reply to the final dot."""


class SimMx:
    """All MX hosts of the world. `message_id` turns a return path into the id of its message, None for nobody's."""

    def __init__(
        self,
        world: World,
        message_id: Callable[[str], str | None],
        behaviours: Mapping[str, Behaviour] | None = None,
    ) -> None:
        self.world = world
        self.message_id = message_id
        self.behaviours = dict(behaviours or {})
        """By recipient; all others are accepted."""
        self.ledger: list[LedgerRecord] = []
        """What the MX would write down; `peer` is the binding's address."""
        self.attempts: dict[str, int] = {}
        """RCPTs by recipient."""
        self.taken: dict[str, int] = {}
        """Copies taken by recipient."""
        self.down: set[str] = set()
        """Addresses of proxies and MX hosts that refuse connections."""
        self.patience = float("inf")
        """Seconds after which a silent connection is closed with 421."""
        self.thanks: Callable[[], str] = lambda: "250 taken"
        """Replies to a message that was taken."""
        self._connections = 0

    def next_connection(self) -> int:
        self._connections += 1
        return self._connections

    def note_end(self, connection: Connection, how: str, taken: int) -> None:
        record = LedgerConnection(
            time=EPOCH + self.world.loop.time(),
            connection=str(connection.id),
            peer=connection.source,
            host=connection.host,
            end=how,
            messages=taken,
        )
        self.ledger.append(record)


class Responder:
    """The MX's side of the dialogue: one line after the other, so that pipelined commands are answered in order.

    `begins_at`: how many bytes of the connection came before the dialogue.
    """

    def __init__(self, connection: Connection, begins_at: int) -> None:
        self._connection = connection
        self._mx = connection.mx
        self._buffer = b""
        self._read = begins_at
        self._in_data = False
        self._busy = False
        self._sender = ""
        self._recipient = ""
        self._ehlo = ""
        self._dots = 0
        self._heard = 0
        self.taken = 0

    def greet(self) -> None:
        self._connection.reply(b"220 mx.simulated ESMTP\r\n")

    def feed(self, data: bytes) -> None:
        self._buffer += data
        self._heard += 1
        self._go_on()
        if self._mx.patience < float("inf"):
            self._connection.world.later(self._mx.patience, self._lose_patience, self._heard)

    def _lose_patience(self, heard: int) -> None:
        if heard == self._heard and not self._busy and self._connection.is_open:
            self._say("421 4.4.2 idle for too long")
            self._connection.end(TIMEOUT)

    def _go_on(self) -> None:
        while not self._busy and self._connection.is_open:
            end = self._end_of_next()
            if end < 0:
                return
            text, self._buffer = self._buffer[:end], self._buffer[end:]
            self._read += end
            if self._in_data:
                self._dot(text[:-3].replace(b"\r\n..", b"\r\n."))
            else:
                self._command(text.rstrip(b"\r\n").decode())

    def _end_of_next(self) -> int:
        """Where the next command, or the message, ends in the buffer; -1 while it does not."""
        if not self._in_data:
            return self._buffer.find(b"\n") + 1 or -1
        if self._buffer.startswith(b".\r\n"):
            return 3
        found = self._buffer.find(b"\r\n.\r\n")
        return found + 5 if found >= 0 else -1

    def _command(self, line: str) -> None:
        verb = line.split(":")[0].split(" ")[0].upper()
        match verb:
            case "EHLO":
                self._ehlo = line[5:]
                self._say("250-mx.simulated\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 SIZE 52428800")
            case "HELO" | "RSET" | "NOOP":
                self._say("250 ok")
            case "MAIL":
                self._mail(_path(line))
            case "RCPT":
                self._rcpt(_path(line))
            case "DATA":
                self._data()
            case "QUIT":
                self._say("221 bye")
                self._connection.end(QUIT)
            case _:
                self._say(f"502 what is {verb}?")

    def _mail(self, sender: str) -> None:
        self._sender, self._recipient = sender, ""
        self._begun("mx.mail", self._mx.message_id(sender) or sender)
        self._say("250 ok")

    def _rcpt(self, recipient: str) -> None:
        attempt = self._mx.attempts[recipient] = self._mx.attempts.get(recipient, 0) + 1
        refusal = self._refusal(recipient, attempt)
        if refusal and not self._behaviour(recipient).at_dot:
            self._say(refusal)
        else:
            self._recipient = recipient
            self._say("250 ok")

    def _data(self) -> None:
        if self._recipient:
            self._in_data = True
            self._say("354 go on")
        else:
            self._say("503 no recipient")

    def _dot(self, data: bytes) -> None:
        self._in_data = False
        call = self._begun("mx.dot", self._recipient)
        self._dots += 1
        call.world.fire(BEFORE, call)
        if self._connection.is_open:
            self._judge(call, data)

    def _judge(self, call: Call, data: bytes) -> None:
        recipient = self._recipient
        behaviour = self._behaviour(recipient)
        refusal = self._refusal(recipient, self._mx.attempts[recipient])
        if refusal:
            self._answer_dot(refusal, behaviour.slow)
            return
        self._take(data)
        call.landed = call.world.loop.time()
        call.world.fire(LANDED, call)
        if self._mx.taken[recipient] <= behaviour.cut:
            self._connection.cut()
        else:
            self._answer_dot(self._mx.thanks(), behaviour.slow)

    def _take(self, data: bytes) -> None:
        connection, recipient = self._connection, self._recipient
        self.taken += 1
        self._mx.taken[recipient] = self._mx.taken.get(recipient, 0) + 1
        record = LedgerMessage(
            time=EPOCH + connection.world.loop.time(),
            connection=str(connection.id),
            order=self.taken,
            peer=connection.source,
            host=connection.host,
            ehlo=self._ehlo,
            tls=False,
            sender=self._sender,
            recipient=recipient,
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
            message_id=self._mx.message_id(self._sender) or "",
        )
        self._mx.ledger.append(record)
        connection.world.note(connection.process, "mx.taken", f"#{connection.id} {record.message_id} {recipient}")

    def _answer_dot(self, reply: str, delay: float) -> None:
        if delay:
            self._busy = True
            self._connection.world.later(delay, self._answer_late, reply)
        else:
            self._say(reply)

    def _answer_late(self, reply: str) -> None:
        self._busy = False
        self._say(reply)
        self._go_on()

    def _refusal(self, recipient: str, attempt: int) -> str:
        behaviour = self._behaviour(recipient)
        if behaviour.bounce:
            return "550 5.1.1 no such user"
        if attempt <= behaviour.block:
            return "554 5.7.1 client host blocked using zen.spamhaus.example"
        return "451 4.7.1 try again later" if attempt <= behaviour.defer else ""

    def _behaviour(self, recipient: str) -> Behaviour:
        return self._mx.behaviours.get(recipient) or _ACCEPTS

    def _begun(self, name: str, key: str) -> Call:
        """Note when the process wrote what has just arrived; `args` are the connection and its earlier final dots."""
        connection = self._connection
        call = Call(connection.world, connection.process, name, key, (connection.id, self._dots), port=connection)
        call.begun = connection.written_at(self._read)
        connection.world.calls.append(call)
        return call

    def _say(self, reply: str) -> None:
        connection = self._connection
        connection.world.note(connection.process, "mx.reply", f"#{connection.id} {reply.splitlines()[-1]}")
        connection.reply(reply.encode() + b"\r\n")


_ACCEPTS = Behaviour()


def cut(call: Call) -> None:
    """Cut the connection. At `before("mx.dot")` the message is not taken; at `landed("mx.dot")` it is."""
    call.port.cut()


def _path(line: str) -> str:
    return line.partition("<")[2].partition(">")[0]

"""SMTP dialogs as text.

`C: line` is said by the client, `S: line` by the server, each with CRLF added;
`C+`/`S+` hold the line back to go out together with the next one, `C!`/`S!` add
no CRLF. Escapes are Python's. The side under test must say exactly its lines;
`...` at the end of one stands for anything. `A:` is an action of the client's
caller, `E:` an event, `options:` configures the server, `closed` says that the
side under test has ended the connection, `#` is a comment. A dialog with
`whole segments` is not repeated byte at a time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from postfleet.smtp import client as c
from postfleet.smtp.client import Client
from postfleet.smtp.events import ServerConfig
from postfleet.smtp.server import Server

_SPEECH = {": ": "say", "+ ": "hold", "! ": "raw"}


def lines_of(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]


def unescape(text: str) -> bytes:
    return ast.literal_eval("b'" + text.replace("'", "\\'") + "'")


class Expectation:
    """The lines that the side under test has said and that the dialog has not mentioned yet."""

    def __init__(self) -> None:
        self.said = b""

    def check(self, text: str) -> None:
        line, crlf, self.said = self.said.partition(b"\r\n")
        assert crlf, f"expected {text!r}, but there was {line!r}"
        if text.endswith("..."):
            assert line.startswith(unescape(text[:-3])), f"expected {text!r}, but there was {line!r}"
        else:
            assert line == unescape(text)


def segments(lines: list[str], side: str) -> Iterator[tuple[str, str]]:
    """(kind, text) with kind `say`, or what stands before the colon."""
    for line in lines:
        if line[0] == side and line[1:3] in _SPEECH:
            yield _SPEECH[line[1:3]], line[3:]
        else:
            kind, _, text = line.partition(": ")
            yield kind, text


def options(text: str) -> dict[str, object]:
    found: dict[str, object] = {}
    for word in text.split():
        name, _, value = word.partition("=")
        found[name] = int(value) if value.isdigit() else tuple(value.split(",")) if value else ()
    return found


def split(data: bytes, size: int) -> list[bytes]:
    return [data[i : i + size] for i in range(0, len(data), size)]


def run_server_dialog(path: Path, size: int) -> None:
    """The server under test takes everything; `size`: octets that it is given at once."""
    lines = lines_of(path)
    given = next((options(line[9:]) for line in lines if line.startswith("options: ")), {})
    server = Server(ServerConfig(**{"hostname": "mx.example", **given}))
    expected, held = Expectation(), b""
    early = "early talker" in lines
    if not early:
        _advance_server(server, expected)
    for kind, text in segments(lines, "C"):
        if kind in ("say", "hold", "raw"):
            held += unescape(text) + (b"" if kind == "raw" else b"\r\n")
            if kind != "hold":
                for piece in split(held, size):
                    server.receive(piece)
                    _advance_server(server, expected)
                held = b""
        elif kind == "S":
            expected.check(text)
        elif kind == "closed":
            assert server.closed
    assert expected.said == b""


def _advance_server(server: Server, expected: Expectation) -> None:
    while server.next_event() is not None:
        server.accept()
    expected.said += server.data_to_send()


def run_client_dialog(path: Path, size: int) -> None:
    """The client under test; `size`: octets that it is given at once."""
    lines = lines_of(path)
    client = Client("client.example", stepwise="stepwise" in lines)
    expected, held = Expectation(), b""
    events: list[str] = []
    for kind, text in segments(lines, "S"):
        if kind in ("say", "hold", "raw"):
            held += unescape(text) + (b"" if kind == "raw" else b"\r\n")
            if kind != "hold":
                for piece in split(held, size):
                    events += [describe(event) for event in client.receive(piece)]
                held = b""
        elif kind == "A":
            expected.said += client.data_to_send()
            expected.said += act(client, text.split(" ", 1), events)
        elif kind == "E":
            assert events.pop(0) == text
        elif kind == "closed":
            assert client.closed
        expected.said += client.data_to_send()
        if kind == "C":
            expected.check(text)
    assert (expected.said, events) == (b"", [])


def act(client: Client, action: list[str], events: list[str]) -> bytes:
    match action:
        case ["mail", arguments]:
            sender, recipient, size = arguments.split(" ")
            result = client.mail("" if sender == "<>" else sender, recipient, int(size))
            events += [describe(result)] if result else []
        case ["body", text]:
            return b"".join(client.body(unescape(text)))
        case ["quit"]:
            client.quit()
        case ["eof"]:
            events += [describe(event) for event in client.eof()]
        case _:
            raise AssertionError(action)
    return b""


def describe(event: c.Event) -> str:
    match event:
        case c.Ready():
            return " ".join(["ready", *event.extensions])
        case c.Result():
            verdict = "accepted" if event.accepted else "refused"
            return f"result {event.stage} {verdict}{' here' if event.local else ''}: {event.reply}"
        case c.BodyWanted():
            return "body wanted"
        case c.Idle():
            return "idle"
        case c.Closing():
            words = ["closing", event.stage, "indeterminate" if event.indeterminate else "", str(event.reply or "")]
            return " ".join(word for word in words if word)
        case c.ProtocolError():
            return f"protocol error {event.stage}{' indeterminate' if event.indeterminate else ''}: {event.reason}"

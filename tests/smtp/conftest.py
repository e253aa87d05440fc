from __future__ import annotations

from collections.abc import Callable

import pytest

from postfleet.smtp.events import Event, MessageReceived, ServerConfig
from postfleet.smtp.server import Server


class Peer:
    """A server machine whose events are all accepted, and what it took."""

    def __init__(self, config: ServerConfig) -> None:
        self.server = Server(config)
        self.events: list[Event] = []
        self.advance()

    @property
    def messages(self) -> list[MessageReceived]:
        return [event for event in self.events if isinstance(event, MessageReceived)]

    def advance(self) -> None:
        while (event := self.server.next_event()) is not None:
            self.events.append(event)
            self.server.accept()

    def say(self, data: bytes) -> bytes:
        self.server.receive(data)
        self.advance()
        return self.server.data_to_send()


@pytest.fixture
def peer() -> Callable[..., Peer]:
    """Makes a greeted server; keywords as in `ServerConfig`."""

    def make(*, hello: bool = True, **options: object) -> Peer:
        made = Peer(ServerConfig(**{"hostname": "mx.example", **options}))
        made.server.data_to_send()
        if hello:
            made.say(b"EHLO client.example\r\n")
        return made

    return make

"""The answering half: user name and password, CONNECT to an IP address, nothing else.

Clients may send greeting, authentication and CONNECT in one write or wait for
each answer. The user name and password are judged with the target, so
authentication itself always succeeds and a bad token is refused at CONNECT.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from postfleet.socks.wire import (
    ADDRESS_LENGTHS,
    AUTH_VERSION,
    CONNECT,
    DOMAIN,
    NO_ACCEPTABLE_METHOD,
    USERNAME_PASSWORD,
    VERSION,
    WAIT_UNIT,
    Reply,
    decode_address,
    encode_address,
)

UNSPECIFIED = "0.0.0.0"  # noqa: S104 - BND.ADDR of a refusal, not an address to listen on
_LONGEST_WAIT = 0xFFFF * WAIT_UNIT


class ConnectRequest(Struct, frozen=True):
    """`rest` is what the client sent after it, meant for the target."""

    username: str
    password: str
    host: str
    port: int
    rest: bytes


class Rejected(Struct, frozen=True):
    """The handshake failed: write what came with it, then close."""

    reason: str


def reply(code: int, host: str = UNSPECIFIED, port: int = 0) -> bytes:
    return bytes([VERSION, code, 0]) + encode_address(host, port)


def at_limit(wait: float) -> bytes:
    """Reply 0x80 that suggests to stay away for `wait` seconds (at most 655)."""
    return reply(Reply.AT_LIMIT, port=round(min(max(wait, 0.0), _LONGEST_WAIT) / WAIT_UNIT))


class SocksServer:
    """Feed it what the client sends until it hands back a request or a rejection."""

    def __init__(self) -> None:
        self._buffer = b""
        self._username = self._password = ""
        self._step: Callable[[], tuple[bytes, ConnectRequest | Rejected | None]] = self._greeting

    def receive(self, data: bytes) -> tuple[bytes, ConnectRequest | Rejected | None]:
        """(bytes to write now, result once there is one)."""
        self._buffer += data
        written = b""
        while True:
            step = self._step
            answer, result = step()
            written += answer
            if result is not None or self._step == step:
                return written, result

    def _take(self, length: int) -> bytes:
        taken, self._buffer = self._buffer[:length], self._buffer[length:]
        return taken

    def _greeting(self) -> tuple[bytes, Rejected | None]:
        buffer = self._buffer
        if buffer and buffer[0] != VERSION:
            return b"", Rejected("not SOCKS5")
        if len(buffer) < 2 or len(buffer) < 2 + buffer[1]:
            return b"", None
        if USERNAME_PASSWORD not in self._take(2 + buffer[1])[2:]:
            return bytes([VERSION, NO_ACCEPTABLE_METHOD]), Rejected("client offers no user name and password")
        self._step = self._authentication
        return bytes([VERSION, USERNAME_PASSWORD]), None

    def _authentication(self) -> tuple[bytes, Rejected | None]:
        buffer = self._buffer
        if buffer and buffer[0] != AUTH_VERSION:
            return b"", Rejected("authentication is not RFC 1929")
        if len(buffer) < 2 or len(buffer) < 3 + buffer[1]:
            return b"", None
        middle = 2 + buffer[1]
        end = middle + 1 + buffer[middle]
        if len(buffer) < end:
            return b"", None
        message = self._take(end)
        self._username = message[2:middle].decode("utf-8", "replace")
        self._password = message[middle + 1 :].decode("utf-8", "replace")
        self._step = self._request
        return bytes([AUTH_VERSION, 0]), None

    def _request(self) -> tuple[bytes, ConnectRequest | Rejected | None]:
        buffer = self._buffer
        if buffer and buffer[0] != VERSION:
            return b"", Rejected("request is not SOCKS5")
        if len(buffer) < 4:
            return b"", None
        if buffer[1] != CONNECT:
            return reply(Reply.COMMAND_NOT_SUPPORTED), Rejected(f"command {buffer[1]}")
        length = ADDRESS_LENGTHS.get(buffer[3])
        if length is None:
            reason = "domain name as target" if buffer[3] == DOMAIN else f"address type {buffer[3]}"
            return reply(Reply.ADDRESS_TYPE_NOT_SUPPORTED), Rejected(reason)
        if len(buffer) < 6 + length:
            return b"", None
        head = self._take(6 + length)
        host = decode_address(head[3], head[4:-2])
        port = int.from_bytes(head[-2:], "big")
        return b"", ConnectRequest(self._username, self._password, host, port, self._take(len(self._buffer)))

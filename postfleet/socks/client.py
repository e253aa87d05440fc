"""The dialling half: one write, then wait for the answer."""

from __future__ import annotations

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


class Connected(Struct, frozen=True):
    """`rest` is what followed the reply: SMTP servers speak first."""

    bound_host: str
    bound_port: int
    rest: bytes


class Refused(Struct, frozen=True):
    """No connection. `code` is a `Reply`, or another number from a foreign server.

    Faults of the proxy, such as an answer that is not SOCKS5, have code `Reply.GENERAL_FAILURE`;
    a refused user name or password has `Reply.NOT_ALLOWED`.
    """

    code: int
    reason: str
    wait_seconds: float = 0.0
    """How long to stay away; not 0 only with `Reply.AT_LIMIT`."""


_REASONS: dict[int, str] = {
    Reply.GENERAL_FAILURE: "proxy failure (source address not usable)",
    Reply.NOT_ALLOWED: "not allowed by the proxy",
    Reply.NETWORK_UNREACHABLE: "network unreachable",
    Reply.HOST_UNREACHABLE: "host unreachable",
    Reply.CONNECTION_REFUSED: "connection refused",
    Reply.TIMED_OUT: "connection timed out",
    Reply.COMMAND_NOT_SUPPORTED: "proxy does not support CONNECT",
    Reply.ADDRESS_TYPE_NOT_SUPPORTED: "proxy does not support this address family",
    Reply.AT_LIMIT: "connection limit reached",
}
_METHOD_END = 2
_AUTH_END = 4
_HEAD_END = 8


def first_bytes(username: str, password: str, host: str, port: int) -> bytes:
    """Greeting, authentication and CONNECT, to go out in one write.

    Raises `ValueError` when `host` is not an IP address, or when a credential
    is empty or longer than the 255 bytes of RFC 1929.
    """
    credentials = _field("user name", username) + _field("password", password)
    greeting = bytes([VERSION, 1, USERNAME_PASSWORD])
    request = bytes([VERSION, CONNECT, 0]) + encode_address(host, port)
    return greeting + bytes([AUTH_VERSION]) + credentials + request


def _field(name: str, text: str) -> bytes:
    data = text.encode()
    if not 1 <= len(data) <= 255:
        raise ValueError(f"SOCKS5 {name} has {len(data)} bytes; RFC 1929 allows 1 to 255")
    return bytes([len(data)]) + data


class SocksClient:
    """Reads the server's answers to `first_bytes`. One result, once; feed nothing after it."""

    def __init__(self) -> None:
        self._buffer = b""

    def receive(self, data: bytes) -> Connected | Refused | None:
        """None until the answer is complete or cannot be SOCKS5 any more."""
        self._buffer += data
        return _method_refused(self._buffer) or _auth_refused(self._buffer) or _reply(self._buffer)


def _method_refused(answer: bytes) -> Refused | None:
    if answer[:1] not in (b"", bytes([VERSION])):
        return _not_socks("greeting")
    if len(answer) < _METHOD_END or answer[1] == USERNAME_PASSWORD:
        return None
    if answer[1] == NO_ACCEPTABLE_METHOD:
        return Refused(Reply.NOT_ALLOWED, "proxy does not accept user name and password")
    return _not_socks("method")


def _auth_refused(answer: bytes) -> Refused | None:
    if len(answer) > _METHOD_END and answer[2] != AUTH_VERSION:
        return _not_socks("authentication")
    if len(answer) >= _AUTH_END and answer[3] != 0:
        return Refused(Reply.NOT_ALLOWED, "proxy refused the user name or password")
    return None


def _reply(answer: bytes) -> Connected | Refused | None:
    if len(answer) > _AUTH_END and answer[4] != VERSION:
        return _not_socks("reply")
    if len(answer) <= _HEAD_END:
        return None
    kind = answer[7]
    start = _HEAD_END + (kind == DOMAIN)
    length = answer[_HEAD_END] if kind == DOMAIN else ADDRESS_LENGTHS.get(kind)
    if length is None:
        return _not_socks("reply's address")
    end = start + length
    if len(answer) < end + 2:
        return None
    return _result(answer[5], decode_address(kind, answer[start:end]), answer[end:])


def _result(code: int, host: str, tail: bytes) -> Connected | Refused:
    port = int.from_bytes(tail[:2], "big")
    if code == Reply.SUCCEEDED:
        return Connected(host, port, tail[2:])
    wait = port * WAIT_UNIT if code == Reply.AT_LIMIT else 0.0
    return Refused(code, _REASONS.get(code, f"proxy reply {code}"), wait)


def _not_socks(where: str) -> Refused:
    return Refused(Reply.GENERAL_FAILURE, f"proxy does not speak SOCKS5 (in its {where})")

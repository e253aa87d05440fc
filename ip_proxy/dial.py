"""A connection to the target from one source address, or a reason why not. Never from another address."""

from __future__ import annotations

import asyncio
import errno
import socket
from ipaddress import ip_address

from postfleet.socks.wire import Reply

_IP_BIND_ADDRESS_NO_PORT = getattr(socket, "IP_BIND_ADDRESS_NO_PORT", 24)
_CODES = {
    errno.ENETUNREACH: Reply.NETWORK_UNREACHABLE,
    errno.EHOSTUNREACH: Reply.HOST_UNREACHABLE,
    errno.ECONNREFUSED: Reply.CONNECTION_REFUSED,
    errno.ETIMEDOUT: Reply.TIMED_OUT,
}


class SourceUnusable(OSError):
    """The source address cannot be bound on this machine."""


def reply_code(error: OSError) -> Reply:
    return _CODES.get(error.errno or 0, Reply.GENERAL_FAILURE)


def source_socket(local: str) -> socket.socket:
    """A non-blocking TCP socket bound to `local`, whose port is chosen at connect. Raises `SourceUnusable`."""
    family = socket.AF_INET if ip_address(local).version == 4 else socket.AF_INET6
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        sock.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind((local, 0))
    except OSError as error:
        sock.close()
        raise SourceUnusable(error.errno, error.strerror) from None
    return sock


def is_bindable(local: str) -> bool:
    try:
        source_socket(local).close()
    except OSError:
        return False
    return True


async def dial(local: str, host: str, port: int, timeout: float) -> socket.socket:
    """Raises `SourceUnusable`, or another `OSError` whose errno says what became of the connection."""
    sock = source_socket(local)
    try:
        async with asyncio.timeout(timeout):
            await asyncio.get_running_loop().sock_connect(sock, (host, port))
    except TimeoutError:
        sock.close()
        raise OSError(errno.ETIMEDOUT, "connection timed out") from None
    except BaseException:
        sock.close()
        raise
    return sock

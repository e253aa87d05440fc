"""What both halves agree on: reply codes and the layout of addresses (RFC 1928)."""

from __future__ import annotations

from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, ip_address

VERSION = 5
AUTH_VERSION = 1
USERNAME_PASSWORD = 2
NO_ACCEPTABLE_METHOD = 0xFF
CONNECT = 1
IPV4, DOMAIN, IPV6 = 1, 3, 4
ADDRESS_LENGTHS = {IPV4: 4, IPV6: 16}

WAIT_UNIT = 0.01
"""Seconds that one step of BND.PORT stands for in an `AT_LIMIT` reply."""


class Reply(IntEnum):
    """RFC 1928 section 6, and one of our own."""

    SUCCEEDED = 0
    GENERAL_FAILURE = 1
    """The proxy's own fault: it cannot bind the source, or is out of something."""
    NOT_ALLOWED = 2
    """The token or the target was refused."""
    NETWORK_UNREACHABLE = 3
    HOST_UNREACHABLE = 4
    CONNECTION_REFUSED = 5
    TIMED_OUT = 6
    """The target did not answer ("TTL expired" in the RFC)."""
    COMMAND_NOT_SUPPORTED = 7
    ADDRESS_TYPE_NOT_SUPPORTED = 8
    AT_LIMIT = 0x80
    """All connections of this source and limit key are in use; BND.PORT suggests how long to stay away."""


def encode_address(host: str, port: int) -> bytes:
    """ATYP, address, port. Raises `ValueError` when `host` is not an IP address."""
    address = ip_address(host)
    kind = IPV4 if address.version == 4 else IPV6
    return bytes([kind]) + address.packed + port.to_bytes(2, "big")


def decode_address(kind: int, data: bytes) -> str:
    """The text of a DST.ADDR or BND.ADDR whose length fits its kind."""
    if kind == IPV4:
        return str(IPv4Address(data))
    if kind == IPV6:
        return str(IPv6Address(data))
    return data.decode("ascii", "replace")

"""What the DNS can say about where mail goes. Pure."""

from __future__ import annotations

from msgspec import Struct


class MxHosts(Struct, frozen=True):
    """(preference, host name), most preferred first, equal ones by name."""

    hosts: tuple[tuple[int, str], ...]


class NullMx(Struct, frozen=True):
    """The domain says that it takes no mail (RFC 7505)."""


class NoDomain(Struct, frozen=True):
    """There is nowhere to send this mail to, and retrying will not help."""

    reason: str


class TempFail(Struct, frozen=True):
    """Nothing is known now; later it may be."""

    reason: str


class Addresses(Struct, frozen=True):
    """IP addresses of one family; empty where the host has none, or does not exist."""

    values: tuple[str, ...]

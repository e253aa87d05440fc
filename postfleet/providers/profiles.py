"""What is known about the big mailbox providers, and how an operator adds to it."""

from __future__ import annotations

import tomllib
from typing import Literal

import msgspec
from msgspec import Struct

Count = Literal["provider", "site"]

TAIL_LANES = ("tail-0", "tail-1")


class Profile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named family of sites. Suffixes match whole labels: `l.example` matches `l.example` and `mx.l.example`."""

    name: str
    suffixes: tuple[str, ...] = ()
    """Ends of MX host names, lower case, without leading or trailing dots."""
    sample_mx: str = ""
    """A host name that this profile must match."""
    limits_per: Count = "site"
    """What connections, rates and backoff count by."""
    lane: str = ""
    """The lane of this provider's Orders; empty for the shared lanes of the tail."""
    connections: int | None = None
    """Open connections of one binding to one limit key; None for the setting."""
    messages_per_connection: int | None = None
    """None for the setting."""


DEFAULT = Profile(name="default")
"""The profile of every site that no other one matches."""

PROFILES = (
    Profile(
        name="gmail",
        suffixes=("google.com", "googlemail.com"),
        sample_mx="gmail-smtp-in.l.google.com",
        limits_per="provider",
        lane="gmail",
        messages_per_connection=50,
    ),
    Profile(
        name="microsoft",
        suffixes=("olc.protection.outlook.com",),
        sample_mx="outlook-com.olc.protection.outlook.com",
        limits_per="provider",
        lane="microsoft",
        messages_per_connection=50,
    ),
    Profile(
        name="office365",
        suffixes=("mail.protection.outlook.com", "mx.microsoft"),
        sample_mx="contoso-com.mail.protection.outlook.com",
        limits_per="provider",
        lane="microsoft",
        messages_per_connection=50,
    ),
    Profile(
        name="yahoo",
        suffixes=("yahoodns.net",),
        sample_mx="mta5.am0.yahoodns.net",
        lane="yahoo",
        messages_per_connection=20,
    ),
    Profile(
        name="apple",
        suffixes=("icloud.com",),
        sample_mx="mx01.mail.icloud.com",
        limits_per="provider",
        lane="apple",
        messages_per_connection=5,
    ),
)

LANES = (*dict.fromkeys(profile.lane for profile in PROFILES), *TAIL_LANES)
"""The names of all queues of Orders."""


class _File(Struct, frozen=True, forbid_unknown_fields=True):
    profile: tuple[Profile, ...] = ()


def parse_profiles(text: str, source: str) -> tuple[Profile, ...]:
    """An operator's profiles: TOML, one `[[profile]]` table each, with the fields of `Profile`.

    Raises `ValueError` that names `source` and what is wrong.
    """
    try:
        profiles = msgspec.convert(tomllib.loads(text), _File).profile
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise ValueError(f"{source}: {error}") from None
    for profile in profiles:
        if profile.lane and profile.lane not in LANES:
            raise ValueError(
                f"{source}: profile {profile.name!r}: no lane {profile.lane!r}; choose of {', '.join(LANES)}"
            )
    return profiles

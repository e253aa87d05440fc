"""What is known about mailbox providers, and how an operator changes it.

The shipped profiles are `profiles.toml`; an operator's file adds to them and changes them key by key.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from postfleet.providers.tables import BadTable, Tables, merged, record, sections, shipped

Count = Literal["provider", "site"]
Tls = Literal["opportunistic", "required", "required-insecure"]
Whole = Annotated[int, Meta(ge=1)]
Positive = Annotated[float, Meta(gt=0)]

TAIL_LANES = ("tail-0", "tail-1")


class Limits(Struct, frozen=True, kw_only=True):
    """What one binding may do towards one limit key; None leaves it to the setting, or for rates unlimited."""

    connections: Whole | None = None
    """Open at a time."""
    connections_per_minute: Positive | None = None
    messages_per_connection: Whole | None = None
    messages_per_minute: Positive | None = None


class Profile(Limits, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A named family of sites. Suffixes match whole labels: `l.example` matches `l.example` and `mx.l.example`."""

    name: str
    suffixes: tuple[str, ...] = ()
    """Ends of MX host names, lower case, without leading or trailing dots."""
    sample_domain: str = ""
    """A recipient's domain whose MX is like `sample_mx`."""
    sample_mx: str = ""
    """A host name that this profile must match."""
    limits_per: Count = "site"
    """What connections, rates and backoff count by."""
    lane: str = ""
    """The lane of this provider's Orders; empty for the shared lanes of the tail."""
    tls: Tls = "opportunistic"
    """`required`: with a certificate that is good for the host; `required-insecure`: with whatever certificate."""
    retry_first: Positive | None = None
    """Seconds before the second try; None for the setting. Each further wait is longer by the setting's factor."""
    retry_longest: Positive | None = None
    """Seconds that no wait exceeds; None for no bound but the message's expiry."""


_SHIPPED: Tables = shipped("profiles.toml")["profile"]
PROFILES = tuple(record(Profile, name, table, "profiles.toml: profile") for name, table in _SHIPPED.items())
DEFAULT = next(profile for profile in PROFILES if profile.name == "default")
"""The profile of every site that no other one matches."""

LANES = (*dict.fromkeys(profile.lane for profile in PROFILES if profile.lane), *TAIL_LANES)
"""The names of all queues of Orders."""


def parse_profiles(text: str, source: str) -> tuple[Profile, ...]:
    """The shipped profiles as an operator's file changes them, and its own. Raises `BadTable`."""
    own = sections(text, source)["profile"]
    where = f"{source}: profile"
    profiles = tuple(record(Profile, name, table, where) for name, table in merged(_SHIPPED, own).items())
    for profile in profiles:
        _check(profile, where)
    return profiles


def _check(profile: Profile, where: str) -> None:
    if profile.lane and profile.lane not in LANES:
        raise BadTable(f"{where}.{profile.name}: lane: no lane {profile.lane!r}; choose of {', '.join(LANES)}")
    for suffix in profile.suffixes:
        if suffix != suffix.lower().strip("."):
            raise BadTable(f"{where}.{profile.name}: suffixes: {suffix!r} must be lower case, without dots around it")

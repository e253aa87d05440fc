"""Whether the DNS says the same of a sending IP as its binding does. Pure.

Receivers look up the PTR record of whoever connects, and the address of that name; where the two disagree, or the
EHLO name is another, much mail is refused or filed as spam (RFC 1912 section 2.1, and every big provider's rules).
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address

from postfleet.directory import Binding


def disagreement(binding: Binding, pointers: Collection[str], addresses: Collection[str]) -> str:
    """Why the binding may not send, empty when A and PTR agree with it.

    `pointers` are the names of the IP's PTR records, `addresses` those of the EHLO name in the IP's family.
    """
    name = binding.ehlo.lower()
    named = sorted(pointer.rstrip(".").lower() for pointer in pointers)
    if not named:
        return f"{binding.ip} has no PTR record; it must name {name}"
    if name not in named:
        return f"PTR of {binding.ip} names {', '.join(named)}, not {name}"
    if ip_address(binding.ip) not in map(ip_address, addresses):
        return f"{name} has address {', '.join(addresses) or 'none'}, not {binding.ip}"
    return ""

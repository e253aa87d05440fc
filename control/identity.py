"""Asks the DNS whether bindings are who they say."""

from __future__ import annotations

from ipaddress import ip_address

from postfleet.directory import Binding
from postfleet.dns.answers import TempFail
from postfleet.dns.identity import disagreement
from postfleet.dns.resolver import Resolver


class Identities:
    """What was found last stands while the DNS does not answer."""

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._found: dict[tuple[str, str], str] = {}

    async def objection(self, binding: Binding) -> str:
        """Why the binding may not send; empty when it may."""
        pointers = await self._resolver.pointers(binding.ip)
        addresses = await self._resolver.addresses(binding.ehlo, ip_address(binding.ip).version)
        key = binding.ip, binding.ehlo
        for answer in (pointers, addresses):
            if isinstance(answer, TempFail):
                return self._found.get(key, f"not known yet whether A and PTR agree: {answer.reason}")
        assert not isinstance(pointers, TempFail) and not isinstance(addresses, TempFail)
        self._found[key] = disagreement(binding, pointers, addresses.values)
        return self._found[key]

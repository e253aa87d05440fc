"""From MX host names to the profile that they fall under."""

from __future__ import annotations

import zlib
from collections.abc import Iterable

from postfleet.providers.profiles import PROFILES, TAIL_LANES, Profile


class Providers:
    """Profiles by the ends of host names. Of two with the same suffix the later one has it."""

    def __init__(self, profiles: Iterable[Profile] = PROFILES) -> None:
        self.by_name = {profile.name: profile for profile in profiles}
        self.default = self.by_name["default"]
        self._by_suffix = {suffix: profile for profile in self.by_name.values() for suffix in profile.suffixes}

    def of_host(self, host: str) -> Profile:
        """The profile with the longest suffix that fits. `host` is in lower case, without a trailing dot."""
        suffix = host
        while suffix:
            profile = self._by_suffix.get(suffix)
            if profile is not None:
                return profile
            suffix = suffix.partition(".")[2]
        return self.default

    def of_site(self, hosts: Iterable[str]) -> Profile:
        """The profile that all hosts share, else the default.

        All of them, because a domain may list anybody's host among its own: one
        host that misbehaves must not cost the mail to the provider next to it.
        """
        names = {(profile := self.of_host(host)).name: profile for host in hosts}
        return names.popitem()[1] if len(names) == 1 else self.default


def limit_key(profile: Profile, site: str) -> str:
    return profile.name if profile.limits_per == "provider" else site


def lane(profile: Profile, site: str) -> str:
    """Sites of the tail share its lanes, each always in the same one."""
    return profile.lane or TAIL_LANES[zlib.crc32(site.encode()) % len(TAIL_LANES)]

"""Mailbox providers as data, and their matcher."""

from postfleet.providers.matcher import Providers, lane, limit_key
from postfleet.providers.profiles import DEFAULT, LANES, PROFILES, Profile, parse_profiles

__all__ = ["DEFAULT", "LANES", "PROFILES", "Profile", "Providers", "lane", "limit_key", "parse_profiles"]

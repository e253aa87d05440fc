"""Where mail for a domain goes."""

from postfleet.dns.answers import NoDomain, NullMx, TempFail
from postfleet.dns.query import Query, QueryFailed, Reply
from postfleet.dns.site_resolver import NoAddress, Route, SiteResolver, Sites, Target, open_sites
from postfleet.dns.sites import Site, SiteAnswer

__all__ = [
    "NoAddress",
    "NoDomain",
    "NullMx",
    "Query",
    "QueryFailed",
    "Reply",
    "Route",
    "Site",
    "SiteAnswer",
    "SiteResolver",
    "Sites",
    "Target",
    "TempFail",
    "open_sites",
]

"""The mail that costs are measured with. Pure: message `n` is always the same."""

from __future__ import annotations

import random

from msgspec import Raw

from postfleet.content.compile import Inline, compile_inline
from postfleet.dns.answers import MxHosts
from postfleet.dns.sites import Site, site_of_hosts
from postfleet.providers import Providers
from postfleet.stages import Message, Submission

DOMAINS = 200
TENANTS = 20
CONTENT_BYTES = 4096
CAMPAIGN_RECIPIENTS = 2000
"""Of one transmission."""
BIG = {
    "gmail.com": (0.40, "gmail-smtp-in.l.google.com"),
    "outlook.com": (0.17, "outlook-com.olc.protection.outlook.com"),
    "yahoo.com": (0.14, "mta5.am0.yahoodns.net"),
    "icloud.com": (0.09, "mx01.mail.icloud.com"),
    "aol.com": (0.05, "mx-aol.mail.gm0.yahoodns.net"),
}
"""Share of recipients, and the MX host: 85 % in five domains, the rest spread over the tail."""
TAIL = tuple(f"tail{n}.example" for n in range(DOMAINS - len(BIG)))


def sites() -> dict[str, Site]:
    """By domain."""
    providers = Providers()
    hosts = {domain: host for domain, (_, host) in BIG.items()} | {domain: f"mx.{domain}" for domain in TAIL}
    return {domain: site_of_hosts(MxHosts(((10, host),)), providers) for domain, host in hosts.items()}


_WEIGHTS = [share for share, _ in BIG.values()]


def recipient(rng: random.Random, n: int) -> str:
    tail = rng.choice(TAIL)
    (domain,) = rng.choices([*BIG, tail], [*_WEIGHTS, 1.0 - sum(_WEIGHTS)])
    return f"firstname.lastname.{n}@{domain}"


_TEXT = "Dear {{first}}, what you ordered is on its way to you, and here is what we have to say of it.\n"
CAMPAIGN_CONTENT = compile_inline(
    Inline(
        from_email="news@sender.example",
        from_name="The Sender",
        subject="News for {{first}}",
        text=_TEXT * (CONTENT_BYTES // len(_TEXT)),
    )
)


def campaign(identity: str, first: int, rng: random.Random) -> Submission:
    """One content for many recipients, who come with a name and substitution data."""
    return Submission(
        id=identity,
        tenant=1,
        content=CAMPAIGN_CONTENT,
        content_kind="template",
        messages=tuple(
            Message(
                index,
                recipient(rng, first + index),
                name=f"Name {first + index}",
                data=Raw(b'{"first":"Name %d","order":%d}' % (index, first + index)),
            )
            for index in range(CAMPAIGN_RECIPIENTS)
        ),
        sending_domain="sender.example",
        bounce_domain="bounces.sender.example",
        campaign="november",
        friendly_from="The Sender <news@sender.example>",
        subject="News for {{first}}",
        method="rest",
    )


def transactional(identity: str, first: int, rng: random.Random) -> Submission:
    """One recipient, one finished message of 4 KB."""
    head = (
        f"From: shop@sender.example\r\nSubject: Your order {first}\r\nMessage-ID: <{identity}@sender.example>\r\n\r\n"
    )
    tenant = rng.randrange(1, TENANTS + 1)
    return Submission(
        id=identity,
        tenant=tenant,
        content=head.encode().ljust(CONTENT_BYTES, b"."),
        content_kind="raw",
        messages=(Message(0, recipient(rng, first)),),
        sending_domain=f"tenant{tenant}.example",
        bounce_domain=f"bounces.tenant{tenant}.example",
        friendly_from=f"shop@tenant{tenant}.example",
        subject=f"Your order {first}",
    )

"""What a reply, or a trouble, means: one place for the whole failure policy. Pure.

Unknown means temporary. A failure wider than the message before MAIL is
nobody's attempt. A reply that blocks the sending IP never speaks of the
recipient: the mail goes by another binding until it expires.
"""

from __future__ import annotations

import re
from enum import StrEnum

from msgspec import Struct

from postfleet.settings import Settings
from postfleet.smtp.replies import Reply
from postfleet.socks.wire import Reply as SocksReply
from postfleet.stages import BOUNCED, DEFERRED, DELIVERED, REBIND


class Scope(StrEnum):
    """How far a failure reaches."""

    RECIPIENT = "recipient"
    MESSAGE = "message"
    HOST = "host"
    SITE = "site"
    BINDING = "binding"
    """The (binding, limit key)."""
    PROXY = "proxy"


class Verdict(Struct, frozen=True):
    kind: str
    """`delivered`, `bounced`, `deferred` or `rebind`."""
    scope: Scope
    bounce_class: int = 0
    block: bool = False


class BounceClass:
    UNDETERMINED = 1
    INVALID_RECIPIENT = 10
    SOFT = 20
    DNS_FAILURE = 21
    MAILBOX_FULL = 22
    TOO_LARGE = 23
    TIMEOUT = 24
    ADMIN = 25
    GENERIC = 30
    MAIL_BLOCK = 50
    SPAM_BLOCK = 51
    SPAM_CONTENT = 52
    RELAYING_DENIED = 54
    TRANSIENT = 70


_BLOCKED = re.compile(
    r"\b(?:client host|sending ip|your ip|ip address|host) .{0,80}\b(?:block|black ?list|listed|reject)"
    r"|\bblocked using\b|\bspamhaus\b|\b(?:dn|r)sbl\b"
    r"|\bpoor reputation\b|\breputation of .{0,40}\bip\b|\bip reputation\b",
    re.IGNORECASE,
)
_PERMANENT_CLASSES = (
    (re.compile(r"^5\.1\.[1236]$|^5\.2\.1$"), BounceClass.INVALID_RECIPIENT),
    (re.compile(r"^5\.2\.2$"), BounceClass.MAILBOX_FULL),
    (re.compile(r"^5\.(?:2\.3|3\.4)$"), BounceClass.TOO_LARGE),
    (re.compile(r"^5\.4\.[146]$|^5\.1\.10$"), BounceClass.DNS_FAILURE),
)
_PERMANENT_TEXTS = (
    (re.compile(r"relay", re.IGNORECASE), BounceClass.RELAYING_DENIED),
    (re.compile(r"\bspam\b", re.IGNORECASE), BounceClass.SPAM_CONTENT),
    (
        re.compile(r"no such (?:user|mailbox)|user unknown|unknown user|does not exist", re.IGNORECASE),
        BounceClass.INVALID_RECIPIENT,
    ),
)
_BEFORE_MAIL = frozenset({"greeting", "ehlo"})


def judge_reply(stage: str, reply: Reply) -> Verdict:
    """`stage` is what the reply answered: greeting, ehlo, mail, rcpt, data or final."""
    if stage == "final" and 200 <= reply.code < 300:
        return Verdict(DELIVERED, Scope.MESSAGE)
    if blocks_the_ip(reply):
        return Verdict(DEFERRED, Scope.BINDING, BounceClass.SPAM_BLOCK, block=True)
    if stage in _BEFORE_MAIL or reply.code == 421:
        return Verdict(DEFERRED, Scope.HOST, BounceClass.TRANSIENT)
    scope = Scope.RECIPIENT if stage == "rcpt" else Scope.MESSAGE
    if 500 <= reply.code < 600:
        return Verdict(BOUNCED, scope, permanent_class(reply))
    return Verdict(DEFERRED, scope, temporary_class(reply))


def blocks_the_ip(reply: Reply) -> bool:
    return reply.code >= 400 and _BLOCKED.search(reply.text) is not None


def permanent_class(reply: Reply) -> int:
    for pattern, bounce_class in _PERMANENT_CLASSES:
        if pattern.search(reply.enhanced):
            return bounce_class
    for pattern, bounce_class in _PERMANENT_TEXTS:
        if pattern.search(reply.text):
            return bounce_class
    if reply.enhanced.startswith("5.7."):
        return BounceClass.MAIL_BLOCK
    return BounceClass.UNDETERMINED


def temporary_class(reply: Reply) -> int:
    if reply.enhanced == "4.2.2":
        return BounceClass.MAILBOX_FULL
    return BounceClass.TRANSIENT if reply.enhanced else BounceClass.UNDETERMINED


_UNREACHABLE = frozenset(
    {
        SocksReply.NETWORK_UNREACHABLE,
        SocksReply.HOST_UNREACHABLE,
        SocksReply.CONNECTION_REFUSED,
        SocksReply.TIMED_OUT,
    }
)


def judge_refused_dial(code: int) -> Verdict:
    """What the proxy's refusal means: the far host is away, or the proxy cannot serve this binding."""
    if code in _UNREACHABLE:
        return Verdict(DEFERRED, Scope.HOST, BounceClass.TIMEOUT)
    return Verdict(REBIND, Scope.PROXY)


# ---------------------------------------------------------------- when to try again

_JITTER = 0.1
_STEPS = 20


def next_try(
    *,
    attempts: int,
    accepted_at: float,
    expires_at: float,
    answered: bool,
    spread: float,
    settings: Settings,
    now: float,
) -> float:
    """When a deferred message is due, Unix seconds, never past its expiry.

    Answered tries double the delay; where nobody answered, the message's age
    does, since that was nobody's attempt. `spread` in [0, 1) adds up to 10 %:
    the same for an Order's messages, which wait together, as does the rounding up to a twentieth.
    """
    if answered:
        delay = settings.retry_first * settings.retry_factor**attempts
    else:
        delay = max(settings.retry_first, now - accepted_at)
    delay *= 1 + _JITTER * spread
    step = max(delay / _STEPS, 0.001)
    return min((now + delay) // step * step + step, expires_at)

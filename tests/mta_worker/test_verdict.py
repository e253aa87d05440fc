from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mta_worker.verdict import BounceClass, Scope, judge_refused_dial, judge_reply, next_try
from postfleet.settings import Settings
from postfleet.smtp.replies import Reply
from postfleet.socks.wire import Reply as SocksReply
from postfleet.stages import BOUNCED, DEFERRED, DELIVERED, REBIND

CASES = [
    ("final", Reply(250, "2.0.0", "queued"), DELIVERED, Scope.MESSAGE, 0, False),
    ("rcpt", Reply(550, "5.1.1", "no such user"), BOUNCED, Scope.RECIPIENT, BounceClass.INVALID_RECIPIENT, False),
    ("rcpt", Reply(550, "", "User unknown"), BOUNCED, Scope.RECIPIENT, BounceClass.INVALID_RECIPIENT, False),
    ("rcpt", Reply(552, "5.2.2", "mailbox full"), BOUNCED, Scope.RECIPIENT, BounceClass.MAILBOX_FULL, False),
    ("mail", Reply(552, "5.3.4", "too big"), BOUNCED, Scope.MESSAGE, BounceClass.TOO_LARGE, False),
    ("rcpt", Reply(554, "5.7.1", "Relay access denied"), BOUNCED, Scope.RECIPIENT, BounceClass.RELAYING_DENIED, False),
    ("final", Reply(554, "5.7.1", "looks like spam"), BOUNCED, Scope.MESSAGE, BounceClass.SPAM_CONTENT, False),
    ("final", Reply(554, "5.7.0", "policy"), BOUNCED, Scope.MESSAGE, BounceClass.MAIL_BLOCK, False),
    ("final", Reply(554, "", "no"), BOUNCED, Scope.MESSAGE, BounceClass.UNDETERMINED, False),
    ("rcpt", Reply(450, "4.2.0", "greylisted"), DEFERRED, Scope.RECIPIENT, BounceClass.TRANSIENT, False),
    ("rcpt", Reply(452, "4.2.2", "over quota"), DEFERRED, Scope.RECIPIENT, BounceClass.MAILBOX_FULL, False),
    ("final", Reply(451, "", "try later"), DEFERRED, Scope.MESSAGE, BounceClass.UNDETERMINED, False),
    ("mail", Reply(421, "4.3.2", "closing"), DEFERRED, Scope.HOST, BounceClass.TRANSIENT, False),
    ("greeting", Reply(554, "", "no SMTP service here"), DEFERRED, Scope.HOST, BounceClass.TRANSIENT, False),
    ("ehlo", Reply(501, "", "bad name"), DEFERRED, Scope.HOST, BounceClass.TRANSIENT, False),
    (
        "rcpt",
        Reply(554, "5.7.1", "Service unavailable; Client host [192.0.2.1] blocked using zen.spamhaus.org"),
        DEFERRED,
        Scope.BINDING,
        BounceClass.SPAM_BLOCK,
        True,
    ),
    ("mail", Reply(550, "5.7.1", "Your IP has a poor reputation"), DEFERRED, Scope.BINDING, 51, True),
    ("greeting", Reply(421, "4.7.0", "IP address is on our block list"), DEFERRED, Scope.BINDING, 51, True),
]


@pytest.mark.parametrize(("stage", "reply", "kind", "scope", "bounce_class", "block"), CASES)
def test_replies(stage: str, reply: Reply, kind: str, scope: Scope, bounce_class: int, block: bool) -> None:
    """What each known reply means."""
    verdict = judge_reply(stage, reply)
    assert (verdict.kind, verdict.scope, verdict.bounce_class, verdict.block) == (kind, scope, bounce_class, block)


@pytest.mark.parametrize(
    ("code", "kind", "scope"),
    [
        (SocksReply.CONNECTION_REFUSED, DEFERRED, Scope.HOST),
        (SocksReply.TIMED_OUT, DEFERRED, Scope.HOST),
        (SocksReply.NETWORK_UNREACHABLE, DEFERRED, Scope.HOST),
        (SocksReply.HOST_UNREACHABLE, DEFERRED, Scope.HOST),
        (SocksReply.GENERAL_FAILURE, REBIND, Scope.PROXY),
        (SocksReply.NOT_ALLOWED, REBIND, Scope.PROXY),
    ],
)
def test_refused_dials(code: int, kind: str, scope: Scope) -> None:
    """The far host's faults are the host's, everything else is the proxy's and nobody's attempt."""
    verdict = judge_refused_dial(code)
    assert (verdict.kind, verdict.scope) == (kind, scope)


STAGES = st.sampled_from(["greeting", "ehlo", "mail", "rcpt", "data", "final"])
REPLIES = st.builds(
    Reply,
    st.integers(200, 599),
    st.sampled_from(["", "2.0.0", "4.7.1", "5.1.1", "5.7.1"]),
    st.text(max_size=200),
)


@given(STAGES, REPLIES)
def test_only_a_permanent_reply_bounces(stage: str, reply: Reply) -> None:
    """Unknown means temporary, and nothing said before MAIL ends a message."""
    verdict = judge_reply(stage, reply)
    if verdict.kind == BOUNCED:
        assert reply.permanent
        assert stage not in ("greeting", "ehlo")
    if verdict.kind == DELIVERED:
        assert stage == "final"


@given(REPLIES)
def test_a_block_never_speaks_of_the_recipient(reply: Reply) -> None:
    """A reply that blocks the IP has the scope of the binding and defers."""
    verdict = judge_reply("rcpt", reply)
    if verdict.block:
        assert (verdict.kind, verdict.scope) == (DEFERRED, Scope.BINDING)


SETTINGS = Settings()


def try_after(
    attempts: int, *, age: float = 0.0, answered: bool = True, spread: float = 0.0, left: float = 1e9
) -> float:
    """Seconds from now."""
    now = 1_800_000_000.0
    due = next_try(
        attempts=attempts,
        accepted_at=now - age,
        expires_at=now + left,
        answered=answered,
        spread=spread,
        settings=SETTINGS,
        now=now,
    )
    return due - now


@pytest.mark.parametrize("attempts", range(8))
def test_the_delay_doubles(attempts: int) -> None:
    """20 minutes, doubling, up to 10 % of jitter and 5 % of rounding."""
    delay = SETTINGS.retry_first * 2**attempts
    assert delay <= try_after(attempts) <= delay * 1.06
    assert delay <= try_after(attempts, spread=0.999) <= delay * 1.16


def test_an_unanswered_try_waits_by_age() -> None:
    """Where nobody answered the count does not grow, but the message's age does."""
    assert 1200 <= try_after(0, answered=False) < 1300
    assert 7200 <= try_after(0, age=7200, answered=False) < 7600


def test_nothing_is_due_after_expiry() -> None:
    """The last try is at the expiry, so that the message ends then."""
    assert try_after(5, left=100.0) == 100.0

"""How the sandbox's mailbox providers answer: by the prefix of the recipient's local part, else by its domain.

    accept-        takes the message (so does any local part without a prefix)
    defer3-        three temporary refusals, then accepts
    bounce-        550 5.1.1
    block2-        two replies that block the sending IP, then accepts
    greylist-      450 until the same (peer, sender domain, recipient) was first seen long enough ago
    slow5-         answers the final dot after five seconds
    drop1-         cuts the connection after the final dot, with the message kept, once; then accepts
    421-           421 at RCPT and closes

Numbers default to 1 (`slow-`: 5 seconds).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

from msgspec import Struct

from postfleet.smtp.replies import Reply

GREYLIST_SECONDS = 2.0
MAX_STATE = 200_000
"""Recipients remembered, and as many greylisted triplets; the oldest go first."""

_PREFIX = re.compile(r"(accept|defer|bounce|block|greylist|slow|drop|421)(\d{0,4})-", re.IGNORECASE)

_DEFAULT_NUMBER = {"slow": 5}

_DEFERRALS = (
    Reply(451, "4.7.1", "Temporarily deferred due to unusual sending rate; please try again later"),
    Reply(452, "4.2.2", "The recipient's inbox is out of storage space; please try again later"),
    Reply(
        450, "4.2.1", "The recipient is receiving mail at a rate that prevents additional messages from being delivered"
    ),
    Reply(451, "4.3.0", "Mail server temporarily rejected message"),
)


class Script(Struct, frozen=True):
    """One behaviour with its number: times, or seconds for `slow`."""

    kind: str
    number: int = 1


class FinalDot(Struct, frozen=True):
    """What happens after the final dot."""

    delay: float = 0.0
    """Seconds before the reply."""
    cut: bool = False
    """Keep the message and cut the connection instead of replying."""


_PLAIN = Script("accept")

K = TypeVar("K")
V = TypeVar("V")


def parse_script(local_part: str) -> Script | None:
    """The behaviour that a local part asks for; None if it asks for none."""
    match = _PREFIX.match(local_part)
    if match is None:
        return None
    kind = match[1].lower()
    return Script(kind, int(match[2] or _DEFAULT_NUMBER.get(kind, 1)))


class Behaviours:
    """The answers of all mailbox providers, with what they remember of each recipient.

    `domains` gives domains another default than to accept, in the words of a prefix (`greylist`, `slow2`).
    """

    def __init__(
        self,
        domains: Mapping[str, str] | None = None,
        *,
        greylist: float = GREYLIST_SECONDS,
        max_state: int = MAX_STATE,
    ) -> None:
        self._domains = {domain: parse_script(words + "-") for domain, words in (domains or {}).items()}
        self._greylist = greylist
        self._max_state = max_state
        self._refused: dict[str, int] = {}
        self._first_seen: dict[tuple[str, str, str], float] = {}

    def at_recipient(self, peer: str, sender: str, recipient: str, now: float) -> Reply | None:
        """The refusal that answers RCPT, None to accept. `now` is on any clock that does not step."""
        script = self._script(recipient)
        match script.kind:
            case "defer":
                return self._defer(script, recipient)
            case "block":
                return self._block(script, recipient, peer)
            case "greylist":
                return self._greylisted(peer, sender, recipient, now)
            case "bounce":
                return Reply(550, "5.1.1", f"<{recipient}>: Recipient address rejected: User unknown")
            case "421":
                return Reply(421, "4.3.2", "Service shutting down, closing transmission channel")
            case _:
                return None

    def at_final_dot(self, recipient: str) -> FinalDot:
        """What to do with a message for a recipient that was accepted."""
        script = self._script(recipient)
        if script.kind == "slow":
            return FinalDot(delay=script.number)
        return FinalDot(cut=script.kind == "drop" and self._count(script, recipient) > 0)

    def _script(self, recipient: str) -> Script:
        local_part, _, domain = recipient.rpartition("@")
        return parse_script(local_part) or self._domains.get(domain.lower()) or _PLAIN

    def _defer(self, script: Script, recipient: str) -> Reply | None:
        count = self._count(script, recipient)
        return _DEFERRALS[(count - 1) % len(_DEFERRALS)] if count else None

    def _block(self, script: Script, recipient: str, peer: str) -> Reply | None:
        if not self._count(script, recipient):
            return None
        return Reply(554, "5.7.1", f"Service unavailable; Client host [{peer}] blocked using zen.spamhaus.org")

    def _count(self, script: Script, recipient: str) -> int:
        """Which of the script's refusals this is, from 1; 0 once they are used up."""
        count = self._refused.get(recipient, 0) + 1
        if count > script.number:
            return 0
        _remember(self._refused, recipient, count, self._max_state)
        return count

    def _greylisted(self, peer: str, sender: str, recipient: str, now: float) -> Reply | None:
        triplet = (peer, sender.rpartition("@")[2].lower(), recipient)
        first = self._first_seen.get(triplet)
        if first is None:
            _remember(self._first_seen, triplet, now, self._max_state)
        elif now - first >= self._greylist:
            return None
        return Reply(450, "4.2.0", f"<{recipient}>: Recipient address rejected: Greylisted, please try again later")


def _remember(memory: dict[K, V], key: K, value: V, limit: int) -> None:
    memory[key] = value
    if len(memory) > limit:
        del memory[next(iter(memory))]

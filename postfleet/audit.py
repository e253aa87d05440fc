"""Was everything that was accepted delivered or accounted for, and nothing twice? Compared as sets, not totals.

Sources are what clients know (`HandOver`), what the platform says (`Event`), what lies in its queues, claims and
parks (`Pending`), and what the MX recorded (`LedgerRecord`). The words `lost`, `duplicated`, `unexpected` and
`recovered` are those of Jepsen's total-queue checker.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from msgspec import Struct

from postfleet import evidence, stages
from postfleet.evidence import HandOver, LedgerConnection, LedgerMessage, LedgerRecord
from postfleet.stages import DELIVERED, Event

END_OF_EVENT = {
    "delivery": stages.DELIVERED,
    "bounce": stages.BOUNCED,
    "expired": stages.EXPIRED,
    "suppressed": stages.SUPPRESSED,
    "cancelled": stages.CANCELLED,
    "failed": stages.FAILED,
}
"""Terminal state by event type."""


class Pending(Struct, frozen=True):
    """A message found in a queue entry, a claimed Order or a park."""

    message_id: str
    recipient: str
    place: str
    """Such as `units`, `lane`, `claim`, `park`."""


class Violation(Struct, frozen=True):
    """One broken promise about one message."""

    kind: str
    """`lost`, `duplicated`, `unexpected`, `undelivered`, `misdelivered`, `two_ends`, `two_injections` or
    `no_injection`."""
    subject: str
    """Message id, or the recipient where no id is known."""
    detail: str


class Report(Struct, frozen=True, kw_only=True):
    """Names are message ids, or recipients of whose message nothing is known but that it was submitted."""

    accepted: frozenset[str]
    """Submissions answered ok, recovered ones, and whatever else has an injection event."""
    lost: frozenset[str]
    """Accepted, and neither ended nor pending; after the drain, accepted and not ended."""
    duplicated_permitted: frozenset[str]
    """Sent again after the connection of the copy before was lost."""
    duplicated: frozenset[str]
    """Sent again though the MX had answered, or two messages for one submission."""
    unexpected: frozenset[str]
    """Refused or submitted by nobody, and yet there; or at the MX without reason."""
    recovered: frozenset[str]
    """Submitted without an answer, and there."""
    pending: dict[str, int]
    """Messages without a terminal event, by place."""
    ended: dict[str, int]
    """Messages by terminal state."""
    violations: tuple[Violation, ...]


class _Message:
    """All that is known of one message."""

    __slots__ = ("copies", "ends", "id", "injections", "pending", "recipients")

    def __init__(self, message_id: str) -> None:
        self.id = message_id
        self.recipients: set[str] = set()
        self.injections = 0
        self.ends: list[str] = []
        self.copies: list[LedgerMessage] = []
        self.pending = ""

    @property
    def transmission(self) -> str:
        return self.id.rpartition(".")[0]


def audit(
    hand_overs: Iterable[HandOver],
    events: Iterable[Event],
    pending: Iterable[Pending],
    ledger: Iterable[LedgerRecord],
    message_of_sender: Callable[[str], str | None],
    *,
    final: bool = False,
    all_logged: bool = True,
    unseen: str = "",
) -> Report:
    """Compare what was accepted with what became of it.

    `message_of_sender` gives the message id (`transmission.index`) that a return path names, or None. `final` says
    that the platform was drained, so that nothing may be pending. Without `all_logged`, mail that no client log
    names is audited as accepted if it has an injection event, rather than reported as unexpected. `unseen` is a place
    with messages that `pending` cannot name: unless it is final, what is found nowhere else is there.
    """
    return _Audit(message_of_sender, final, all_logged, "" if final else unseen).run(
        hand_overs, events, pending, ledger
    )


class _Audit:
    def __init__(
        self, message_of_sender: Callable[[str], str | None], final: bool, all_logged: bool, unseen: str
    ) -> None:
        self._message_of_sender = message_of_sender
        self._final = final
        self._all_logged = all_logged
        self._unseen = unseen
        self._without_trace = 0
        """Accepted submissions of which nothing is seen yet."""
        self._messages: dict[str, _Message] = {}
        self._last_of_connection: dict[str, int] = {}
        self._quit: set[str] = set()
        self._accepted: set[str] = set()
        self._found: dict[str, set[str]] = defaultdict(set)
        self._violations: list[Violation] = []

    def run(
        self,
        hand_overs: Iterable[HandOver],
        events: Iterable[Event],
        pending: Iterable[Pending],
        ledger: Iterable[LedgerRecord],
    ) -> Report:
        self._read_events(events)
        self._read_pending(pending)
        self._read_ledger(ledger)
        self._judge_submissions(hand_overs)
        for message in self._messages.values():
            self._judge_events(message)
            self._judge_copies(message)
            if message.id in self._accepted:
                self._judge_end(message)
        return self._report()

    def _read_events(self, events: Iterable[Event]) -> None:
        seen: set[str] = set()
        for event in events:
            if event.event_id in seen or not event.message_id:
                continue
            seen.add(event.event_id)
            message = self._message(event.message_id, event.rcpt_to)
            if event.type == "injection":
                message.injections += 1
            elif event.type in END_OF_EVENT:
                message.ends.append(END_OF_EVENT[event.type])

    def _read_pending(self, pending: Iterable[Pending]) -> None:
        for found in pending:
            self._message(found.message_id, found.recipient).pending = found.place

    def _read_ledger(self, ledger: Iterable[LedgerRecord]) -> None:
        for record in ledger:
            if isinstance(record, LedgerMessage):
                self._read_copy(record)
            elif isinstance(record, LedgerConnection) and record.end == evidence.QUIT:
                self._quit.add(record.connection)

    def _read_copy(self, copy: LedgerMessage) -> None:
        self._last_of_connection[copy.connection] = copy.order
        message_id = self._message_of_sender(copy.sender)
        if message_id is None:
            self._violate("unexpected", copy.recipient, f"MX {copy.host} has mail of nobody, sender <{copy.sender}>")
        else:
            self._message(message_id, copy.recipient).copies.append(copy)

    def _message(self, message_id: str, recipient: str) -> _Message:
        message = self._messages.get(message_id)
        if message is None:
            message = self._messages[message_id] = _Message(message_id)
        message.recipients.add(recipient.lower())
        return message

    def _judge_submissions(self, hand_overs: Iterable[HandOver]) -> None:
        unclaimed = self._by_recipient()
        for hand_over in hand_overs:
            for recipient in hand_over.recipients:
                self._judge_submission(hand_over, recipient, unclaimed.pop(recipient.lower(), []))
        for message in (message for messages in unclaimed.values() for message in messages):
            if self._all_logged or not message.injections:
                self._violate("unexpected", message.id, f"nobody submitted mail to {', '.join(message.recipients)}")
            else:
                self._accepted.add(message.id)

    def _by_recipient(self) -> dict[str, list[_Message]]:
        found: dict[str, list[_Message]] = defaultdict(list)
        for message in self._messages.values():
            for recipient in message.recipients:
                found[recipient].append(message)
        return found

    def _judge_submission(self, hand_over: HandOver, recipient: str, messages: list[_Message]) -> None:
        names = {message.id for message in messages}
        if hand_over.status == evidence.FAILED:
            for name in names:
                self._violate("unexpected", name, f"the submission for {recipient} was refused: {hand_over.detail}")
            return
        self._accepted |= names
        if hand_over.status != evidence.OK:
            self._found["recovered"] |= names
        elif not names and self._unseen:
            self._accepted.add(recipient)
            self._without_trace += 1
        elif not names:
            self._lose(recipient, f"accepted in transmission {hand_over.transmission}, and no trace of it")
        for message in messages:
            self._judge_transmission(hand_over, message)
        if len(names) > 1:
            self._violate("duplicated", recipient, f"one submission became the messages {', '.join(sorted(names))}")

    def _judge_transmission(self, hand_over: HandOver, message: _Message) -> None:
        if hand_over.transmission and message.transmission != hand_over.transmission:
            detail = f"its recipient was submitted in transmission {hand_over.transmission}"
            self._violate("unexpected", message.id, detail)

    def _judge_events(self, message: _Message) -> None:
        if len(message.ends) > 1:
            self._violate("two_ends", message.id, f"ended as {' and '.join(message.ends)}")
        if message.injections > 1:
            self._violate("two_injections", message.id, f"has {message.injections} injection events")
        if self._final and message.ends and not message.injections:
            self._violate("no_injection", message.id, f"{message.ends[0]}, but has no injection event")

    def _judge_copies(self, message: _Message) -> None:
        if len(message.recipients) > 1:
            detail = f"one message for {' and '.join(sorted(message.recipients))}"
            self._violate("misdelivered", message.id, detail)
        if DELIVERED in message.ends and not message.copies:
            self._violate("undelivered", message.id, "has a delivery event, but no MX has it")
        if len(message.copies) > 1:
            self._judge_duplicates(message)
        if message.ends and DELIVERED not in message.ends:
            self._judge_undue_copies(message)

    def _judge_duplicates(self, message: _Message) -> None:
        answered = [copy for copy in message.copies[:-1] if not self._reply_may_be_lost(copy)]
        if not answered:
            self._found["duplicated_permitted"].add(message.id)
        for copy in answered:
            self._violate("duplicated", message.id, f"sent again after {_position(copy)} was answered")

    def _judge_undue_copies(self, message: _Message) -> None:
        for copy in message.copies:
            if not self._reply_may_be_lost(copy):
                detail = f"ended as {message.ends[0]}, but {_position(copy)} was answered"
                self._violate("unexpected", message.id, detail)

    def _reply_may_be_lost(self, copy: LedgerMessage) -> bool:
        """The next message, or QUIT, is sent only after the reply was read."""
        return self._last_of_connection[copy.connection] == copy.order and copy.connection not in self._quit

    def _judge_end(self, message: _Message) -> None:
        if message.ends:
            return
        at_mx = " (an MX has it)" if message.copies else ""
        message.pending = message.pending or self._unseen
        if not message.pending:
            self._lose(message.id, f"has neither ended nor is it pending{at_mx}")
        elif self._final:
            self._lose(message.id, f"still in {message.pending} after the drain{at_mx}")

    def _lose(self, name: str, detail: str) -> None:
        self._accepted.add(name)
        self._violate("lost", name, detail)

    def _violate(self, kind: str, subject: str, detail: str) -> None:
        self._violations.append(Violation(kind, subject, detail))
        self._found[kind].add(subject)

    def _pending(self) -> Counter[str]:
        found = Counter(message.pending for message in self._messages.values() if message.pending and not message.ends)
        if self._without_trace:
            found[self._unseen] += self._without_trace
        return found

    def _report(self) -> Report:
        return Report(
            accepted=frozenset(self._accepted),
            lost=frozenset(self._found["lost"]),
            duplicated_permitted=frozenset(self._found["duplicated_permitted"]),
            duplicated=frozenset(self._found["duplicated"]),
            unexpected=frozenset(self._found["unexpected"]),
            recovered=frozenset(self._found["recovered"]),
            pending=dict(self._pending()),
            ended=dict(Counter(m.ends[0] for m in self._messages.values() if m.ends)),
            violations=tuple(self._violations),
        )


def _position(copy: LedgerMessage) -> str:
    return f"message {copy.order} of connection {copy.connection} to {copy.host}"

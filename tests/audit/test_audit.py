from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postfleet.audit import END_OF_EVENT, Pending, Report, audit
from postfleet.evidence import (
    CUT,
    FAILED,
    INDETERMINATE,
    OK,
    QUIT,
    HandOver,
    LedgerConnection,
    LedgerMessage,
    LedgerRecord,
)
from postfleet.stages import Event

HAND_OVER = HandOver(1.0, "smtp", "", (), OK)
EVENT = Event("", "", 2.0, "", "", 0, "")
COPY = LedgerMessage(3.0, "c1", 1, "127.0.0.1", "127.2.0.1", "mta", False, "", "", 10, "00", "<m@x>")


def handed_over(status: str, *recipients: str, transmission: str = "") -> HandOver:
    return msgspec.structs.replace(HAND_OVER, status=status, recipients=recipients, transmission=transmission)


def event(kind: str, message: str, recipient: str, event_id: str = "") -> Event:
    return msgspec.structs.replace(
        EVENT, event_id=event_id or f"{kind}:{message}", type=kind, message_id=message, rcpt_to=recipient
    )


def copy(message: str, recipient: str, connection: str = "c1", order: int = 1) -> LedgerMessage:
    sender = f"b-{message}@bounces.example"
    return msgspec.structs.replace(COPY, sender=sender, recipient=recipient, connection=connection, order=order)


def closed(connection: str, end: str) -> LedgerConnection:
    return LedgerConnection(4.0, connection, "127.0.0.1", "127.2.0.1", end, 1)


def named(sender: str) -> str | None:
    return sender[2:].partition("@")[0] if sender.startswith("b-") else None


def run(
    hand_overs: Sequence[HandOver] = (),
    events: Sequence[Event] = (),
    pending: Sequence[Pending] = (),
    ledger: Sequence[LedgerRecord] = (),
    final: bool = False,
    all_logged: bool = True,
) -> Report:
    return audit(hand_overs, events, pending, ledger, named, final=final, all_logged=all_logged)


def kinds(report: Report) -> list[str]:
    return [violation.kind for violation in report.violations]


SENT = [handed_over(OK, "ann@x.example", transmission="7")]
INJECTED = event("injection", "7.0", "ann@x.example")
DELIVERED = [INJECTED, event("delivery", "7.0", "ann@x.example")]
BOUNCED = [INJECTED, event("bounce", "7.0", "ann@x.example")]
PARKED = [Pending("7.0", "ann@x.example", "park")]
FIRST = copy("7.0", "ann@x.example")
SECOND = copy("7.0", "ann@x.example", "c2")
QUITTED = [closed("c1", QUIT), closed("c2", QUIT)]
FIRST_CUT = [closed("c1", CUT), closed("c2", QUIT)]


def test_a_delivered_message_is_in_order() -> None:
    """Submitted, delivered, at the MX once: nothing to report."""
    report = run(SENT, DELIVERED, ledger=[FIRST, *QUITTED], final=True)
    assert report.violations == ()
    assert report.accepted == {"7.0"}
    assert report.ended == {"delivered": 1}


def test_repeated_events_count_once() -> None:
    """The same event written again is the same event."""
    assert run(SENT, DELIVERED * 2, ledger=[FIRST]).violations == ()


def test_events_of_no_message() -> None:
    """What was refused before it became a message is none that anybody has to have submitted."""
    assert run(events=[event("generation_rejection", "", "")]).violations == ()


def test_recipients_are_matched_without_regard_to_case() -> None:
    """An address that was folded to lower case on its way is the same one."""
    sent = [handed_over(OK, "Ann@X.example", transmission="7")]
    assert run(sent, DELIVERED, ledger=[FIRST]).violations == ()


def test_an_accepted_message_without_a_trace_is_lost() -> None:
    """Answered ok, and neither events nor queues nor MX know it."""
    report = run(SENT)
    assert report.lost == report.accepted == {"ann@x.example"}


def test_an_accepted_message_in_no_place_is_lost() -> None:
    """An injection event alone accounts for nothing."""
    assert run(SENT, [INJECTED]).lost == {"7.0"}


def test_a_message_at_the_mx_without_end_is_lost_to_the_reports() -> None:
    """An MX has it, but the platform says nothing of it and will not."""
    assert run(SENT, [INJECTED], ledger=[FIRST]).lost == {"7.0"}


def test_a_pending_message_is_not_lost() -> None:
    """It lies in a park."""
    report = run(SENT, [INJECTED], PARKED)
    assert report.violations == ()
    assert report.pending == {"park": 1}


def test_what_queues_do_not_show_is_pending_there() -> None:
    """Accepted and seen nowhere, or seen and not ended: no loss while unseen entries may hold it."""
    sent = [*SENT, handed_over(OK, "bob@x.example", transmission="8")]
    report = audit(sent, [INJECTED], (), (), named, unseen="queues")
    assert report.violations == ()
    assert report.pending == {"queues": 2}
    assert report.accepted == {"7.0", "bob@x.example"}


def test_what_queues_do_not_show_is_lost_after_the_drain() -> None:
    """Then they are empty."""
    assert audit(SENT, [INJECTED], (), (), named, final=True, unseen="queues").lost == {"7.0"}


def test_a_pending_message_is_lost_after_the_drain() -> None:
    """Nothing may be left once the platform says that it is done."""
    assert run(SENT, [INJECTED], PARKED, final=True).lost == {"7.0"}


def test_a_late_queue_entry_of_an_ended_message_is_not_pending() -> None:
    """Entries may come back after their message ended."""
    report = run(SENT, DELIVERED, PARKED, [FIRST], final=True)
    assert report.violations == ()
    assert report.pending == {}


@pytest.mark.parametrize("kind", [kind for kind in END_OF_EVENT if kind != "delivery"])
def test_every_other_end_needs_no_copy(kind: str) -> None:
    """A message may end without reaching an MX."""
    report = run(SENT, [INJECTED, event(kind, "7.0", "ann@x.example")], final=True)
    assert report.violations == ()
    assert report.ended == {END_OF_EVENT[kind]: 1}


def test_a_message_ends_once() -> None:
    """Delivered and bounced is a contradiction."""
    ends = [*DELIVERED, event("bounce", "7.0", "ann@x.example")]
    assert kinds(run(SENT, ends, ledger=[FIRST])) == ["two_ends"]


def test_two_different_events_of_one_end_are_a_contradiction() -> None:
    """Event ids are derived, so that a second id is a second delivery."""
    ends = [*DELIVERED, event("delivery", "7.0", "ann@x.example", "another")]
    assert kinds(run(SENT, ends, ledger=[FIRST])) == ["two_ends"]


def test_a_message_is_injected_once() -> None:
    """Two injection events say that it was taken in twice."""
    again = event("injection", "7.0", "ann@x.example", "another")
    assert kinds(run(SENT, [*DELIVERED, again], ledger=[FIRST])) == ["two_injections"]


def test_an_ended_message_has_an_injection_event_after_the_drain() -> None:
    """Every message has its injection event, once all events are in."""
    assert kinds(run(SENT, DELIVERED[1:], ledger=[FIRST], final=True)) == ["no_injection"]
    assert kinds(run(SENT, DELIVERED[1:], ledger=[FIRST])) == []


def test_a_delivery_needs_a_copy() -> None:
    """A delivery event of a message that no MX has is false."""
    assert kinds(run(SENT, DELIVERED)) == ["undelivered"]


def test_a_bounce_of_a_message_that_the_mx_took_is_false() -> None:
    """The MX answered 250, and the sender hears of a bounce."""
    report = run(SENT, BOUNCED, ledger=[FIRST, *QUITTED])
    assert report.unexpected == {"7.0"}


def test_a_bounce_after_a_lost_reply_is_permitted() -> None:
    """The MX kept the message but its 250 was never read; the next try bounced."""
    assert run(SENT, BOUNCED, ledger=[FIRST, *FIRST_CUT]).violations == ()


@pytest.mark.parametrize("end", [[], FIRST_CUT])
def test_a_copy_after_a_lost_connection_is_permitted(end: list[LedgerRecord]) -> None:
    """The last message of a connection that was cut, or never ended, may come again."""
    report = run(SENT, DELIVERED, ledger=[FIRST, SECOND, *end])
    assert report.violations == ()
    assert report.duplicated_permitted == {"7.0"}


def test_a_copy_after_quit_is_a_duplicate() -> None:
    """Whoever says QUIT has read the reply before."""
    report = run(SENT, DELIVERED, ledger=[FIRST, SECOND, *QUITTED])
    assert report.duplicated == {"7.0"}
    assert report.duplicated_permitted == frozenset()


def test_a_copy_of_a_message_before_the_last_is_a_duplicate() -> None:
    """Whoever sent another message on that connection has read the reply before."""
    other = copy("8.0", "bob@x.example", "c1", 2)
    sent = [*SENT, handed_over(OK, "bob@x.example", transmission="8")]
    events = [*DELIVERED, event("injection", "8.0", "bob@x.example"), event("delivery", "8.0", "bob@x.example")]
    report = run(sent, events, ledger=[FIRST, other, SECOND, *FIRST_CUT])
    assert report.duplicated == {"7.0"}


def test_only_earlier_copies_need_a_lost_reply() -> None:
    """Answered first and cut later is a duplicate all the same."""
    ends = [closed("c1", QUIT), closed("c2", CUT)]
    assert run(SENT, DELIVERED, ledger=[FIRST, SECOND, *ends]).duplicated == {"7.0"}


def test_one_submission_that_became_two_messages_is_a_duplicate() -> None:
    """Two transmissions of one unanswered submission are one too many."""
    sent = [handed_over(INDETERMINATE, "ann@x.example")]
    twice = [*DELIVERED, event("injection", "8.0", "ann@x.example"), event("delivery", "8.0", "ann@x.example")]
    second = copy("8.0", "ann@x.example", "c2")
    assert run(sent, twice, ledger=[FIRST, second]).duplicated == {"ann@x.example"}


def test_a_refused_submission_may_not_appear() -> None:
    """Whoever was told no will send it elsewhere."""
    report = run([handed_over(FAILED, "ann@x.example")], DELIVERED, ledger=[FIRST])
    assert report.unexpected == {"7.0"}
    assert report.accepted == frozenset()


def test_a_refused_submission_that_never_appears_is_in_order() -> None:
    """There is nothing to account for."""
    assert run([handed_over(FAILED, "ann@x.example")], final=True).violations == ()


def test_an_unanswered_submission_may_never_appear() -> None:
    """Its client knows that it has to ask again."""
    report = run([handed_over(INDETERMINATE, "ann@x.example")], final=True)
    assert report.violations == ()
    assert report.recovered == frozenset()


def test_an_unanswered_submission_that_appears_is_recovered_and_accounted_for() -> None:
    """Once it is there it is under the same promise as any other."""
    sent = [handed_over(INDETERMINATE, "ann@x.example")]
    assert run(sent, DELIVERED, ledger=[FIRST]).recovered == {"7.0"}
    assert run(sent, [INJECTED]).lost == {"7.0"}


def test_mail_that_nobody_submitted_is_unexpected() -> None:
    """It is in no client's log."""
    assert run([], DELIVERED, ledger=[FIRST]).unexpected == {"7.0"}


def test_mail_outside_the_logs_can_be_audited_by_its_injection_event() -> None:
    """Mail sent by hand is under the same promise."""
    assert run([], DELIVERED, ledger=[FIRST], all_logged=False).violations == ()
    assert run([], [INJECTED], all_logged=False).lost == {"7.0"}
    assert run([], ledger=[FIRST], all_logged=False).unexpected == {"7.0"}


def test_mail_whose_sender_names_no_message_is_unexpected() -> None:
    """Every return path of the platform names its message."""
    stranger = msgspec.structs.replace(FIRST, sender="eve@elsewhere.example", recipient="eve@x.example")
    assert run(ledger=[stranger]).unexpected == {"eve@x.example"}


def test_a_message_of_another_transmission_is_unexpected() -> None:
    """The recipient was submitted under another id than the message bears."""
    sent = [handed_over(OK, "ann@x.example", transmission="9")]
    assert run(sent, DELIVERED, ledger=[FIRST]).unexpected == {"7.0"}


def test_a_message_at_anothers_mailbox_is_misdelivered() -> None:
    """The MX has it for another recipient than the events name."""
    assert "misdelivered" in kinds(run(SENT, DELIVERED, ledger=[copy("7.0", "eve@x.example")]))


# ---------------------------------------------------------------- properties


class World(msgspec.Struct):
    """Everything in order, however it came about."""

    hand_overs: list[HandOver]
    events: list[Event]
    pending: list[Pending]
    ledger: list[LedgerRecord]

    def audit(self) -> Report:
        return run(self.hand_overs, self.events, self.pending, self.ledger)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    world = World([], [], [], [])
    fates = draw(st.lists(st.sampled_from([*END_OF_EVENT, "pending", "refused", "vanished"]), min_size=1, max_size=8))
    for number, fate in enumerate(fates):
        _add(world, draw, number, fate)
    world.events = draw(st.permutations(world.events + draw(st.permutations(world.events))[: len(fates)]))
    return world


def _add(world: World, draw: st.DrawFn, number: int, fate: str) -> None:
    recipient, message = f"r{number}@x.example", f"{number}.0"
    status = {"refused": FAILED, "vanished": INDETERMINATE}.get(fate) or draw(st.sampled_from([OK, INDETERMINATE]))
    world.hand_overs.append(handed_over(status, recipient, transmission=str(number) if status == OK else ""))
    if fate in ("refused", "vanished"):
        return
    world.events.append(event("injection", message, recipient))
    for lost in range(draw(st.integers(0, 2))):
        _connect(world, message, recipient, f"lost{number}-{lost}", CUT)
    if fate == "pending":
        world.pending.append(Pending(message, recipient, "park"))
        return
    world.events.append(event(fate, message, recipient))
    if fate == "delivery":
        _connect(world, message, recipient, f"good{number}", QUIT)


def _connect(world: World, message: str, recipient: str, connection: str, end: str) -> None:
    world.ledger += [copy(message, recipient, connection), closed(connection, end)]


def _answered(world: World) -> list[LedgerMessage]:
    return [r for r in world.ledger if isinstance(r, LedgerMessage) and r.connection.startswith("good")]


@given(worlds())
def test_a_world_in_order_has_no_violations(world: World) -> None:
    """Lost connections, retries, repeated and reordered events are all permitted."""
    report = world.audit()
    assert report.violations == ()
    assert len(report.accepted) == sum(report.pending.values()) + sum(report.ended.values())


@given(worlds(), st.data())
def test_removing_the_copies_of_a_delivered_message_is_noticed(world: World, data: st.DataObject) -> None:
    """A delivery that no MX can confirm is a violation."""
    if not (answered := _answered(world)):
        return
    sender = data.draw(st.sampled_from(answered)).sender
    world.ledger = [r for r in world.ledger if not (isinstance(r, LedgerMessage) and r.sender == sender)]
    assert kinds(world.audit()) == ["undelivered"]


@given(worlds(), st.data())
def test_a_second_copy_of_an_answered_message_is_noticed(world: World, data: st.DataObject) -> None:
    """Sent again after its reply was read: a duplicate, whatever else happened."""
    if not (answered := _answered(world)):
        return
    again = data.draw(st.sampled_from(answered))
    world.ledger.append(msgspec.structs.replace(again, connection="again"))
    assert world.audit().duplicated == {named(again.sender)}


@given(worlds(), st.data())
def test_removing_an_end_is_noticed(world: World, data: st.DataObject) -> None:
    """A message without its terminal event is lost."""
    ends = [e for e in world.events if e.type in END_OF_EVENT]
    if not ends:
        return
    removed = data.draw(st.sampled_from(ends))
    world.events = [e for e in world.events if e.event_id != removed.event_id]
    assert world.audit().lost == {removed.message_id}


@given(worlds(), st.data())
def test_forgetting_a_pending_message_is_noticed(world: World, data: st.DataObject) -> None:
    """A park that is not there any more is a loss."""
    if not world.pending:
        return
    forgotten = world.pending.pop(data.draw(st.integers(0, len(world.pending) - 1)))
    assert world.audit().lost == {forgotten.message_id}


@given(worlds(), st.data())
def test_forgetting_a_submission_is_noticed(world: World, data: st.DataObject) -> None:
    """Mail that nobody submitted is unexpected, unless it never appeared."""
    forgotten = world.hand_overs.pop(data.draw(st.integers(0, len(world.hand_overs) - 1)))
    appeared = {e.message_id for e in world.events if e.rcpt_to in forgotten.recipients}
    assert world.audit().unexpected == appeared

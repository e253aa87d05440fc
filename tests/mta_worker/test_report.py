from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.mail import NOW, order

from mta_worker.report import events_of, parks_of
from postfleet.stages import BOUNCED, DEFERRED, DELIVERED, EXPIRED, REBIND, Outcome

ORDER = order("a@x.test", "b@x.test", "c@x.test", "d@x.test")


def outcome(n: int, kind: str, **details: object) -> Outcome:
    return Outcome(n, kind, NOW, **details)  # type: ignore[arg-type]


def by_n(*outcomes: Outcome) -> dict[int, Outcome]:
    return {each.n: each for each in outcomes}


def test_deferred_messages_of_one_time_wait_together() -> None:
    """One park for each due time, named in the order of time."""
    parks = parks_of(
        ORDER,
        by_n(
            outcome(0, DEFERRED, due=NOW + 90, code=450),
            outcome(1, DELIVERED, code=250),
            outcome(2, DEFERRED, due=NOW + 60, code=450),
            outcome(3, DEFERRED, due=NOW + 90, code=450),
        ),
    )
    assert [(park.due - NOW, park.unit.id) for park in parks] == [(60, "u/0~0"), (90, "u/0~1")]
    assert [message.index for message in parks[1].unit.groups[0].messages] == [0, 3]


def test_an_answered_try_counts_and_keeps_the_binding() -> None:
    """After a deferral the message comes back by its binding, one attempt older."""
    (park,) = parks_of(ORDER, by_n(outcome(0, DEFERRED, due=NOW + 60, code=450)))
    (message,) = park.unit.groups[0].messages
    assert (message.attempts, message.binding, message.avoid) == (1, "b1", ())


def test_an_unanswered_try_does_not_count() -> None:
    """A failure that no reply decided is nobody's attempt."""
    (park,) = parks_of(ORDER, by_n(outcome(0, DEFERRED, due=NOW + 60)))
    assert park.unit.groups[0].messages[0].attempts == 0


def test_a_rebind_is_nobodys_attempt_and_free_to_go_elsewhere() -> None:
    """The router chooses again."""
    (park,) = parks_of(ORDER, by_n(outcome(0, REBIND, due=NOW + 5)))
    assert (park.unit.groups[0].messages[0].attempts, park.unit.groups[0].messages[0].binding) == (0, "")


def test_a_block_avoids_the_binding() -> None:
    """A blocked message remembers which binding not to take, once."""
    (park,) = parks_of(ORDER, by_n(outcome(0, DEFERRED, due=NOW + 5, code=554, block=True)))
    message = park.unit.groups[0].messages[0]
    assert (message.binding, message.avoid) == ("", ("b1",))


def test_events_tell_every_outcome() -> None:
    """One event for each message, of the outcome's time."""
    events = events_of(
        ORDER,
        by_n(
            outcome(0, DELIVERED, code=250, reply="250 ok", source_ip="192.0.2.1"),
            outcome(1, BOUNCED, code=550, bounce_class=10),
            outcome(2, DEFERRED, code=450, due=NOW + 60),
            outcome(3, EXPIRED),
        ),
    )
    assert [event.type for event in events] == ["delivery", "bounce", "delay", "expired"]
    assert events[0].sending_ip == "192.0.2.1"
    assert events[1].bounce_class == 10
    assert events[2].due == NOW + 60
    assert {event.timestamp for event in events} == {NOW}


KINDS = st.sampled_from([DELIVERED, BOUNCED, DEFERRED, REBIND, EXPIRED])


@given(st.lists(st.tuples(KINDS, st.integers(1, 5)), min_size=4, max_size=4), st.randoms())
def test_a_successor_computes_the_same(drawn: list[tuple[str, int]], rng: object) -> None:
    """Parks and events depend on the outcomes alone, not on the order in which they became known."""
    outcomes = [outcome(n, kind, due=NOW + due, code=450) for n, (kind, due) in enumerate(drawn)]
    shuffled = list(outcomes)
    rng.shuffle(shuffled)  # type: ignore[attr-defined]
    assert parks_of(ORDER, by_n(*outcomes)) == parks_of(ORDER, by_n(*shuffled))
    assert events_of(ORDER, by_n(*outcomes)) == events_of(ORDER, by_n(*shuffled))

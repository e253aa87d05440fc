"""The counting of connections."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ip_proxy.limits import FORGET_AFTER, Limiter, Place, Policy, Ticket

KEY = ("192.0.2.1", "gmail")
policies = st.builds(Policy, st.integers(0, 9), st.integers(0, 4), st.sampled_from([0, 0, 1, 30, 300]))
keys = st.sampled_from([KEY, ("192.0.2.1", "yahoo"), ("192.0.2.2", "gmail")])


class LimiterMachine(RuleBasedStateMachine):
    """Against a model that is a queue and a counter per key."""

    def __init__(self) -> None:
        super().__init__()
        self.limiter = Limiter()
        self.now = 0.0
        self.tickets: list[Ticket] = []
        self.policy: dict[tuple[str, str], Policy] = {}
        self.waiting: dict[tuple[str, str], deque[Ticket]] = {}
        self.looked_at: dict[tuple[str, str], float] = {}

    @rule(key=keys, policy=policies, pause=st.floats(0, 3))
    def join(self, key: tuple[str, str], policy: Policy, pause: float) -> None:
        self.now += pause
        if key not in self.policy or policy.version > self.policy[key].version:
            self.policy[key] = policy
        ticket = Ticket(key, policy)
        self.tickets.append(ticket)
        self.waiting.setdefault(key, deque()).append(ticket)
        self.check_order(key, self.limiter.join(ticket, self.now))

    @rule(data=st.data(), pause=st.floats(0, 3))
    def leave(self, data: st.DataObject, pause: float) -> None:
        if not self.tickets:
            return
        self.now += pause
        ticket = data.draw(st.sampled_from(self.tickets))
        if ticket.place is Place.WAITING:
            self.waiting[ticket.key].remove(ticket)
        self.check_order(ticket.key, self.limiter.leave(ticket, self.now))
        assert ticket.place is Place.GONE

    @rule(key=keys, pause=st.floats(0, 3))
    def wait(self, key: tuple[str, str], pause: float) -> None:
        self.now += pause
        self.check_order(key, self.limiter.advance(key, self.now))

    @rule()
    def change_hands(self) -> None:
        """Another limiter goes on where this one was: what is open stays, what waits joins again in its order."""
        states = self.limiter.lines()
        self.limiter = Limiter()
        for state in states:
            self.limiter.adopt(state, self.now)
        for ticket in self.tickets:
            if ticket.place is Place.OPEN:
                self.limiter.adopt_open(ticket)
        for key, line in self.waiting.items():
            for ticket in list(line):
                self.check_order(key, self.limiter.join(ticket, self.now))

    def check_order(self, key: tuple[str, str], admitted: list[Ticket]) -> None:
        for ticket in admitted:
            assert ticket.place is Place.OPEN
            assert ticket is self.waiting[key].popleft()
        self.looked_at[key] = self.now

    def open(self, key: tuple[str, str]) -> int:
        return sum(ticket.place is Place.OPEN and ticket.key == key for ticket in self.tickets)

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        for key, policy in self.policy.items():
            if self.waiting[key] and self.open(key) < policy.connections:
                begins = self.limiter.next_at(key)
                assert begins is not None
                assert begins > self.looked_at[key]

    @invariant()
    def suggested_waits_are_bounded(self) -> None:
        for key in self.policy:
            assert 0.1 <= self.limiter.suggested_wait(key, self.now) <= 60


TestLimiter = LimiterMachine.TestCase
TestLimiter.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def take(limiter: Limiter, limit: int, version: int = 1, now: float = 0.0, per_minute: int = 0) -> Ticket:
    ticket = Ticket(KEY, Policy(version, limit, per_minute))
    limiter.join(ticket, now)
    return ticket


def test_no_more_than_the_limit_are_open() -> None:
    """The third of three at a limit of two waits."""
    limiter = Limiter()
    assert [take(limiter, 2).place for _ in range(3)] == [Place.OPEN, Place.OPEN, Place.WAITING]


def test_the_newest_policy_wins() -> None:
    """An older token neither raises nor lowers the limit that a newer one has set."""
    limiter = Limiter()
    take(limiter, 1, version=5)
    assert take(limiter, 9, version=4).place is Place.WAITING
    assert take(limiter, 3, version=6).place is Place.OPEN
    assert take(limiter, 1, version=5).place is Place.WAITING


def test_a_higher_limit_admits_those_who_wait() -> None:
    """A policy that makes room wakes the queue, first come first."""
    limiter = Limiter()
    take(limiter, 1)
    second, third = take(limiter, 1), take(limiter, 1)
    fourth = Ticket(KEY, Policy(2, 3))
    assert limiter.join(fourth, 0.0) == [second, third]
    assert fourth.place is Place.WAITING


def test_a_lower_limit_closes_nothing() -> None:
    """Open connections stay, and new ones wait until enough have left."""
    limiter = Limiter()
    first, second = take(limiter, 2), take(limiter, 2)
    third = take(limiter, 1, version=2)
    assert limiter.leave(first, 1.0) == []
    assert limiter.leave(second, 1.0) == [third]


def test_leaving_twice_frees_one_place() -> None:
    """A second leave of the same ticket does nothing."""
    limiter = Limiter()
    first = take(limiter, 1)
    second, third = take(limiter, 1), take(limiter, 1)
    assert limiter.leave(first, 1.0) == [second]
    assert limiter.leave(first, 1.0) == []
    assert third.place is Place.WAITING


def test_the_suggested_wait_follows_how_long_connections_are_held() -> None:
    """Where connections are held for 20 s, a newcomer at a limit of one is sent away for longer than at first."""
    limiter = Limiter()
    before = limiter.suggested_wait(KEY, 0.0)
    for turn in range(30):
        limiter.leave(take(limiter, 1, now=turn * 20.0), turn * 20.0 + 20)
    assert limiter.suggested_wait(KEY, 600.0) == pytest.approx(20, rel=0.1)
    assert before < 5


def test_unused_keys_are_forgotten() -> None:
    """The policy of a key that nobody used for an hour does not stay in memory."""
    limiter = Limiter()
    limiter.leave(take(limiter, 1, version=9), 1.0)
    limiter.join(Ticket(("other", "key"), Policy(1, 1)), 1 + 3 * FORGET_AFTER)
    assert take(limiter, 1, version=1, now=1 + 3 * FORGET_AFTER).place is Place.OPEN
    assert take(limiter, 5, version=2, now=1 + 3 * FORGET_AFTER).place is Place.OPEN


@given(st.integers(1, 400), st.lists(st.floats(0, 20), min_size=1, max_size=200))
def test_no_minute_begins_more_than_its_rate(per_minute: int, pauses: list[float]) -> None:
    """Whenever connections are asked for, no minute sees more beginnings than the policy allows."""
    limiter, now, begun = Limiter(), 0.0, []
    for pause in pauses:
        now += pause
        asked = [take(limiter, 1000, now=now, per_minute=per_minute) for _ in range(3)]
        limiter.advance(KEY, now)
        begun += [now] * sum(ticket.place is Place.OPEN and ticket.since == now for ticket in asked)
        for ticket in asked:
            limiter.leave(ticket, now)
    assert all(sum(at <= other < at + 60 for other in begun) <= per_minute for at in begun)


def test_a_tenth_of_a_minute_begins_at_once() -> None:
    """At 100 a minute, ten begin together and the eleventh waits for its turn, which is known."""
    limiter = Limiter()
    tickets = [take(limiter, 50, per_minute=100) for _ in range(12)]
    assert [ticket.place for ticket in tickets].count(Place.OPEN) == 10
    turn = limiter.next_at(KEY)
    assert turn == pytest.approx(60 / 91)
    assert limiter.advance(KEY, turn - 0.01) == []
    assert limiter.advance(KEY, turn) == [tickets[10]]


def test_the_rate_is_kept_up() -> None:
    """Somebody who always asks gets nine tenths of the rate or more."""
    limiter = Limiter()
    line = [take(limiter, 1000, per_minute=100) for _ in range(500)]
    for second in range(1, 121):
        limiter.advance(KEY, float(second))
    assert sum(ticket.place is Place.OPEN for ticket in line) >= 180


def test_where_the_rate_holds_the_wait_is_told_by_the_rate() -> None:
    """A newcomer behind five others at 60 a minute is told of their turns, however long places are held."""
    limiter = Limiter()
    limiter.leave(take(limiter, 50, now=-900.0, per_minute=60), 0.0)
    for _ in range(6 + 5):
        take(limiter, 50, per_minute=60)
    assert 3 < limiter.suggested_wait(KEY, 0.0) < 8


def test_a_newer_policy_changes_the_rate() -> None:
    """A policy without a rate lets in those whom the one before held back."""
    limiter = Limiter()
    waiting = [take(limiter, 50, per_minute=1) for _ in range(3)][1:]
    newest = Ticket(KEY, Policy(2, 50))
    assert limiter.join(newest, 0.0) == [*waiting, newest]

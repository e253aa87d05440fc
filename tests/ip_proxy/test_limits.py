"""The counting of connections."""

from __future__ import annotations

from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ip_proxy.limits import FORGET_AFTER, Limiter, Place, Ticket

KEY = ("192.0.2.1", "gmail")
keys = st.sampled_from([KEY, ("192.0.2.1", "yahoo"), ("192.0.2.2", "gmail")])


class LimiterMachine(RuleBasedStateMachine):
    """Against a model that is a queue and a counter per key."""

    def __init__(self) -> None:
        super().__init__()
        self.limiter = Limiter()
        self.now = 0.0
        self.tickets: list[Ticket] = []
        self.policy: dict[tuple[str, str], tuple[int, int]] = {}
        self.waiting: dict[tuple[str, str], deque[Ticket]] = {}

    @rule(key=keys, limit=st.integers(0, 4), version=st.integers(0, 9), pause=st.floats(0, 3))
    def join(self, key: tuple[str, str], limit: int, version: int, pause: float) -> None:
        self.now += pause
        if version > self.policy.get(key, (0, -1))[1]:
            self.policy[key] = (limit, version)
        ticket = Ticket(key, limit, version)
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

    def check_order(self, key: tuple[str, str], admitted: list[Ticket]) -> None:
        for ticket in admitted:
            assert ticket.place is Place.OPEN
            assert ticket is self.waiting[key].popleft()

    def open(self, key: tuple[str, str]) -> int:
        return sum(ticket.place is Place.OPEN and ticket.key == key for ticket in self.tickets)

    @invariant()
    def nobody_waits_while_there_is_room(self) -> None:
        for key, (limit, _version) in self.policy.items():
            assert not self.waiting[key] or self.open(key) >= limit

    @invariant()
    def suggested_waits_are_bounded(self) -> None:
        for key in self.policy:
            assert 0.1 <= self.limiter.suggested_wait(key) <= 60


TestLimiter = LimiterMachine.TestCase
TestLimiter.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


def take(limiter: Limiter, limit: int, version: int = 1, now: float = 0.0) -> Ticket:
    ticket = Ticket(KEY, limit, version)
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
    fourth = Ticket(KEY, 3, 2)
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
    before = limiter.suggested_wait(KEY)
    for turn in range(30):
        limiter.leave(take(limiter, 1, now=turn * 20.0), turn * 20.0 + 20)
    assert limiter.suggested_wait(KEY) == pytest.approx(20, rel=0.1)
    assert before < 5


def test_unused_keys_are_forgotten() -> None:
    """The policy of a key that nobody used for an hour does not stay in memory."""
    limiter = Limiter()
    limiter.leave(take(limiter, 1, version=9), 1.0)
    limiter.join(Ticket(("other", "key"), 1, 1), 1 + 3 * FORGET_AFTER)
    assert take(limiter, 1, version=1, now=1 + 3 * FORGET_AFTER).place is Place.OPEN
    assert take(limiter, 5, version=2, now=1 + 3 * FORGET_AFTER).place is Place.OPEN

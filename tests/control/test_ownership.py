"""Who owns which IP."""

from __future__ import annotations

import msgspec
import pytest

from control.ownership import Ownership, Report, SourceReport
from postfleet.deployment import ProxySite
from postfleet.directory import Binding

A = ProxySite("a", "127.0.0.1:1", "127.0.0.1:11", ())
B = ProxySite("b", "127.0.0.1:2", "127.0.0.1:12", ())
NEW = Binding("n", "192.0.2.1", "mx.example")
ON_A = msgspec.structs.replace(NEW, proxy=A.socks, alive=True, since=1.0)
ON_B = msgspec.structs.replace(ON_A, proxy=B.socks)
LISTS = Report((SourceReport("192.0.2.1", True),))
CANNOT = Report((SourceReport("192.0.2.1", False),))
OTHERS = Report((SourceReport("192.0.2.2", True),))
DRAINS = Report((SourceReport("192.0.2.1", True),), draining=True)
MUTE = "refused"


def after(rounds: list[tuple[Report | str, Report | str]], binding: Binding) -> list[Binding]:
    """The binding after each round of probes (of A, of B)."""
    ownership, seen = Ownership([A, B]), []
    for time, (of_a, of_b) in enumerate(rounds, start=2):
        ownership.record(A, of_a)
        ownership.record(B, of_b)
        binding = ownership.decide(binding, float(time))
        seen.append(binding)
    return seen


def owners(rounds: list[tuple[Report | str, Report | str]], binding: Binding) -> list[str]:
    return [seen.proxy[-1:] for seen in after(rounds, binding)]


def test_one_good_answer_makes_a_binding_alive() -> None:
    """The proxy that lists the IP owns it from its first answer."""
    assert after([(LISTS, OTHERS)], NEW) == [msgspec.structs.replace(NEW, proxy=A.socks, alive=True, since=2.0)]


@pytest.mark.parametrize("binding", [NEW, ON_A])
def test_nothing_changes_without_a_reason(binding: Binding) -> None:
    """A settled binding stays the very same object."""
    first, *others = after([(LISTS, OTHERS)] * 4, binding)
    assert all(other is first for other in others)


def test_one_lost_answer_changes_nothing() -> None:
    """A proxy may miss a probe."""
    assert owners([(LISTS, OTHERS), (MUTE, OTHERS), (LISTS, OTHERS), (MUTE, OTHERS)], NEW) == ["1"] * 4


def test_two_lost_answers_are_a_death() -> None:
    """After two failures in a row the binding is dead, with the reason, and alive again at the next answer."""
    _, _, dead, alive = after([(LISTS, OTHERS), (MUTE, OTHERS), (MUTE, OTHERS), (LISTS, OTHERS)], NEW)
    assert (dead.alive, dead.proxy, dead.since, dead.reason) == (False, "", 4.0, "a: no answer: refused")
    assert (alive.alive, alive.proxy, alive.reason) == (True, A.socks, "")


def test_a_dead_binding_is_not_written_again() -> None:
    """Further failures leave the dead binding as it is."""
    *_, third, fourth = after([(MUTE, OTHERS), (MUTE, MUTE), (MUTE, MUTE), (OTHERS, OTHERS)], ON_A)
    assert not third.alive
    assert fourth is third


@pytest.mark.parametrize(
    ("report", "reason"), [(CANNOT, "a: cannot bind"), (DRAINS, "a: draining"), (OTHERS, "no proxy lists it")]
)
def test_an_answer_that_gives_the_ip_up_is_a_death(report: Report, reason: str) -> None:
    """An IP that its proxy cannot bind, does not list or drains is dead at once."""
    (dead,) = after([(report, OTHERS)], ON_A)
    assert (dead.alive, dead.reason) == (False, reason)


def test_an_ip_moves_to_the_proxy_that_can_bind_it() -> None:
    """Ownership follows what the proxies report."""
    assert owners([(LISTS, OTHERS), (OTHERS, LISTS), (DRAINS, LISTS), (LISTS, CANNOT)], NEW) == ["1", "2", "2", "1"]


def test_of_two_that_can_the_owner_keeps_it() -> None:
    """An IP that two proxies list stays where it is."""
    assert owners([(LISTS, LISTS)] * 2, ON_B) == ["2", "2"]


def test_a_restarted_controller_takes_nothing_from_whom_it_has_not_heard() -> None:
    """Until the owner has answered or failed twice, its bindings stay."""
    assert owners([(MUTE, LISTS), (LISTS, LISTS)], ON_A) == ["1", "1"]
    assert owners([(MUTE, OTHERS), (MUTE, OTHERS)], ON_A) == ["1", ""]
    assert owners([(MUTE, LISTS), (MUTE, LISTS)], ON_A) == ["1", "2"]

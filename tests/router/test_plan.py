from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from support.mail import LIFETIME, NOW, transmission, unit

from postfleet.directory import Binding, Pool, Suspension
from postfleet.dns.answers import NoDomain, NullMx, TempFail
from postfleet.dns.sites import Site, SiteAnswer
from postfleet.settings import Settings
from postfleet.stages import BOUNCED, EXPIRED, Group, Message, Plan, Unit
from router.plan import ORDER_BYTES, ORDER_MESSAGES, Snapshot, flatten, plan_unit

SETTINGS = Settings()
A = Site("a", "a", "tail-0", "default", (("mx.a",),))
B = Site("b", "b", "tail-1", "default", (("mx.b",),))
SITES: dict[str, SiteAnswer] = {
    "a.test": A,
    "b.test": B,
    "null.test": NullMx(),
    "none.test": NoDomain("no such domain"),
    "broken.test": TempFail("SERVFAIL"),
}


def binding(name: str, *, alive: bool = True) -> Binding:
    return Binding(name, "192.0.2.1", "out.example", "127.0.0.1:1080", alive)


def snapshot(
    weights: Mapping[str, int], *, dead: tuple[str, ...] = (), suspended: Mapping[str, float] | None = None
) -> Snapshot:
    """`suspended`: until when, by `binding|limit key`."""
    suspensions = {
        key: Suspension(*key.split("|"), NOW - 60, until, "blocked") for key, until in (suspended or {}).items()
    }
    bindings = {name: binding(name, alive=name not in dead) for name in weights}
    return Snapshot({"default": Pool("default", dict(weights))}, bindings, suspensions)


TWO = snapshot({"b1": 1, "b2": 1})


def plan(planned: Unit, seen: Snapshot = TWO, now: float = NOW) -> Plan:
    return plan_unit(planned, SITES, seen, SETTINGS, now)


def test_one_way_is_one_order() -> None:
    """Messages of one pool, binding and lane go out together."""
    result = plan(unit("x@a.test", "y@A.TEST"))
    assert [order.positions for order in result.orders] == [(0, 1)]
    assert result.orders[0].lane == "tail-0"
    assert not result.parks and not result.ends


def test_lanes_do_not_mix() -> None:
    """Each lane has Orders of its own."""
    result = plan(unit("x@a.test", "y@b.test", "z@a.test"))
    assert {order.lane: order.positions for order in result.orders} == {"tail-0": (0, 2), "tail-1": (1,)}


def test_an_order_is_bounded_in_messages() -> None:
    """At most ORDER_MESSAGES to an Order."""
    result = plan(unit(*(f"u{n}@a.test" for n in range(ORDER_MESSAGES * 2 + 1))))
    assert [len(order.positions) for order in result.orders] == [ORDER_MESSAGES, ORDER_MESSAGES, 1]


def test_an_order_is_bounded_in_bytes() -> None:
    """Large recipients' data makes Orders smaller, so that rows and entries stay under their limits."""
    heavy = Message(0, "x@a.test", name="n" * (ORDER_BYTES // 2))
    crowd = Unit("u", 0, (Group(transmission(), tuple(replace(heavy, index=n) for n in range(3))),))
    assert [len(order.positions) for order in plan(crowd).orders] == [1, 1, 1]


@pytest.mark.parametrize(
    ("address", "kind", "words"),
    [
        ("x@null.test", BOUNCED, "556 5.1.10"),
        ("x@none.test", BOUNCED, "550 5.1.2"),
    ],
)
def test_what_takes_no_mail_bounces(address: str, kind: str, words: str) -> None:
    """A null MX or a missing domain ends the message in the plan."""
    (end,) = plan(unit(address)).ends
    assert end.kind == kind
    assert end.reason.startswith(words)


def test_a_broken_nameserver_defers() -> None:
    """When the DNS cannot say, the message waits."""
    (park,) = plan(unit("x@broken.test")).parks
    assert park.due >= NOW + SETTINGS.retry_first - 1
    assert "SERVFAIL" in park.reason


def test_an_old_message_expires() -> None:
    """Expiry is looked at whenever a message is planned."""
    (end,) = plan(unit("x@a.test", of=transmission(age=LIFETIME))).ends
    assert end.kind == EXPIRED


def test_a_dead_binding_is_not_used() -> None:
    """All mail of the pool goes by the bindings that live."""
    seen = snapshot({"b1": 1, "b2": 1}, dead=("b1",))
    for n in range(20):
        assert plan(unit("x@a.test", identity=f"u{n}"), seen).orders[0].binding == "b2"


def test_without_a_live_binding_mail_waits() -> None:
    """No way out parks the message, with the reason."""
    (park,) = plan(unit("x@a.test"), snapshot({"b1": 1}, dead=("b1",))).parks
    assert "no live binding in pool default" in park.reason
    assert park.due > NOW


def test_a_suspension_holds_only_its_limit_key() -> None:
    """What one destination refused of a binding says nothing about another destination."""
    seen = snapshot({"b1": 1}, suspended={"b1|a": NOW + 500})
    result = plan(unit("x@a.test", "y@b.test"), seen)
    assert result.parks[0].due == NOW + 500
    assert result.parks[0].positions == (0,)
    assert result.orders[0].positions == (1,)


def test_a_suspension_ends() -> None:
    """After its time the binding is used again."""
    assert plan(unit("x@a.test"), snapshot({"b1": 1}, suspended={"b1|a": NOW - 1})).orders


def test_a_drained_binding_is_not_used() -> None:
    """A weight of 0 takes a binding out."""
    assert plan(unit("x@a.test"), snapshot({"b1": 0})).parks


def test_a_retry_keeps_its_binding() -> None:
    """Greylisting keys on the sending IP: a retry comes from the same one."""
    for n in range(20):
        parked = Unit(f"u{n}", 0, (Group(transmission(), (Message(0, "x@a.test", binding="b2"),)),), fresh=False)
        assert plan(parked).orders[0].binding == "b2"


def test_a_blocked_message_goes_by_another() -> None:
    """Bindings that the destination blocked are avoided while there is another."""
    parked = Unit("u", 0, (Group(transmission(), (Message(0, "x@a.test", avoid=("b1",)),)),), fresh=False)
    assert plan(parked).orders[0].binding == "b2"
    assert plan(parked, snapshot({"b1": 1})).orders[0].binding == "b1"


def test_weights_spread_units() -> None:
    """Over many units a binding of three times the weight takes about three times the units."""
    seen = snapshot({"b1": 1, "b2": 3})
    taken = [plan(unit("x@a.test", identity=f"u{n}"), seen).orders[0].binding for n in range(2000)]
    assert 0.7 < taken.count("b2") / 2000 < 0.8


def test_an_unknown_pool_falls_back() -> None:
    """Queued mail of a pool that was removed goes by the default pool."""
    assert plan(unit("x@a.test", of=transmission(pool="gone"))).orders[0].binding in ("b1", "b2")


ADDRESSES = st.lists(st.sampled_from([f"x@{domain}" for domain in SITES]), min_size=1, max_size=200)


@given(ADDRESSES, st.floats(0, 2 * LIFETIME), st.sets(st.sampled_from(["b1", "b2"])))
def test_every_message_has_exactly_one_fate(addresses: list[str], age: float, dead: set[str]) -> None:
    """Orders, parks and ends part the unit: nothing is lost, nothing is there twice."""
    planned = unit(*addresses, of=transmission(age=age))
    result = plan(planned, snapshot({"b1": 1, "b2": 2}, dead=tuple(dead)))
    positions = [position for order in result.orders for position in order.positions]
    positions += [position for park in result.parks for position in park.positions]
    positions += [end.position for end in result.ends]
    assert sorted(positions) == list(range(len(flatten(planned))))


@given(ADDRESSES, st.floats(0, LIFETIME - 1))
def test_nothing_waits_past_its_expiry(addresses: list[str], age: float) -> None:
    """A park comes due at the message's expiry at the latest, and not in the past."""
    planned = unit(*addresses, of=transmission(age=age))
    for park in plan(planned, snapshot({"b1": 1}, dead=("b1",))).parks:
        assert NOW <= park.due <= planned.groups[0].transmission.expires_at

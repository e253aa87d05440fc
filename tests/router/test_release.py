from __future__ import annotations

from support.mail import NOW, transmission, unit

from postfleet.stages import (
    BOUNCED,
    Group,
    Message,
    Order,
    Plan,
    PlannedEnd,
    PlannedOrder,
    PlannedPark,
    Unit,
    decode_order_entry,
)
from router.release import ENTRY_BYTES, by_lane, entries_of, events_of, orders_of, parks_of

PLAN = Plan(
    NOW,
    orders=(PlannedOrder("default", "b1", "tail-0", (0, 2)), PlannedOrder("default", "b1", "tail-1", (1,))),
    parks=(PlannedPark(NOW + 60, "no live binding", (3,)),),
    ends=(PlannedEnd(4, BOUNCED, "556 5.1.10 null.test takes no mail (null MX)"),),
)
UNIT = unit("a@x.test", "b@y.test", "c@x.test", "d@z.test", "e@null.test")


def test_orders_are_named_by_unit_and_cut() -> None:
    """The same plan gives the same Orders, so that claims drop a second copy."""
    assert [order.id for order in orders_of(UNIT, PLAN)] == ["u/0", "u/1"]
    assert orders_of(UNIT, PLAN) == orders_of(UNIT, PLAN)


def test_orders_carry_their_messages() -> None:
    """An Order has the planned messages, in order, with their transmission."""
    first = orders_of(UNIT, PLAN)[0]
    assert [message.address for group in first.groups for message in group.messages] == ["a@x.test", "c@x.test"]
    assert first.groups[0].transmission == UNIT.groups[0].transmission


def test_transmissions_stay_apart() -> None:
    """Messages of several transmissions keep their own."""
    two = Unit(
        "u",
        0,
        (Group(transmission("1"), (Message(0, "a@x.test"),)), Group(transmission("2"), (Message(0, "b@x.test"),))),
    )
    (order,) = orders_of(two, Plan(NOW, orders=(PlannedOrder("default", "b1", "tail-0", (0, 1)),)))
    assert [group.transmission.id for group in order.groups] == ["1", "2"]


def test_parks_are_named_by_the_unit() -> None:
    """A park is a unit of its own, no longer fresh."""
    (park,) = parks_of(UNIT, PLAN)
    assert park.due == NOW + 60
    assert (park.unit.id, park.unit.fresh) == ("u~0", False)
    assert park.unit.groups[0].messages[0].address == "d@z.test"


def test_small_orders_of_a_lane_share_an_entry() -> None:
    """A lane's queue gets one entry for several small Orders."""
    many = Plan(NOW, orders=tuple(PlannedOrder("default", "b1", "tail-0", (n,)) for n in range(5)))
    (entry,) = entries_of(orders_of(UNIT, many))
    assert [order.id for order in decode_order_entry(entry.body).orders] == [f"u/{n}" for n in range(5)]
    assert entry.group == "0"


def test_entries_stay_small() -> None:
    """Large Orders get entries of their own."""
    large = Unit("u", 0, (Group(transmission(), tuple(Message(n, "a@x.test", "n" * 40_000) for n in range(3))),))
    plan = Plan(NOW, orders=tuple(PlannedOrder("default", "b1", "tail-0", (n,)) for n in range(3)))
    entries = entries_of(orders_of(large, plan))
    assert len(entries) == 3
    assert all(len(entry.body) < ENTRY_BYTES for entry in entries)


def test_orders_of_several_units_share_an_entry_by_tenant() -> None:
    """Whichever units they are of; another tenant's go apart, since an entry is of one group."""
    orders = [Order(f"u{n}/0", n % 2, "default", "b1", "tail-0", UNIT.groups) for n in range(4)]
    shared = {entry.group: decode_order_entry(entry.body).orders for entry in entries_of(orders)}
    assert {tenant: [order.id for order in found] for tenant, found in shared.items()} == {
        "0": ["u0/0", "u2/0"],
        "1": ["u1/0", "u3/0"],
    }


def test_each_lane_gets_its_own() -> None:
    """Orders by lane, in the order of the plan."""
    orders = [Order(f"u/{n}", 0, "default", "b1", lane, ()) for n, lane in enumerate(("gmail", "yahoo", "gmail"))]
    assert {lane: [order.id for order in found] for lane, found in by_lane(orders).items()} == {
        "gmail": ["u/0", "u/2"],
        "yahoo": ["u/1"],
    }


def test_a_fresh_unit_reports_injections_and_ends() -> None:
    """Every accepted message has its injection event; those that ended in the plan have their end."""
    events = events_of(UNIT, PLAN)
    assert [event.type for event in events] == ["injection"] * 5 + ["bounce"]
    assert events[-1].rcpt_to == "e@null.test"
    assert events[-1].error_code == 556


def test_a_parked_unit_reports_no_injection_again() -> None:
    """Only the acceptance is an injection."""
    again = Unit(UNIT.id, 0, UNIT.groups, fresh=False)
    assert [event.type for event in events_of(again, PLAN)] == ["bounce"]


def test_a_repeat_writes_the_same_events() -> None:
    """Ids and times come from the unit and its plan."""
    assert events_of(UNIT, PLAN) == events_of(UNIT, PLAN)
    assert len({event.event_id for event in events_of(UNIT, PLAN)}) == 6

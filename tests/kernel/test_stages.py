from __future__ import annotations

import msgspec
from support.mail import order, unit

from postfleet.ids import TransmissionIds, accepted_about
from postfleet.stages import (
    Claim,
    OrderEntry,
    UnitEntry,
    decode_claim,
    decode_order_entry,
    decode_unit_entry,
    derived_id,
    encode,
    park_id,
)


class StandingClock:
    """Time does not pass, or steps back."""

    def __init__(self) -> None:
        self.time = 1_800_000_000.0

    def now(self) -> float:
        return self.time

    def mono(self) -> float:
        return 0.0


def test_entries_survive_the_wire() -> None:
    """What is encoded is decoded."""
    assert decode_unit_entry(encode(UnitEntry(units=(unit("a@x.test"),)))).units == (unit("a@x.test"),)
    assert decode_order_entry(encode(OrderEntry((order("a@x.test"),)))).orders == (order("a@x.test"),)


def test_newer_fields_are_passed_over() -> None:
    """Bytes of a newer release, with more fields at the end, still decode."""
    newer = msgspec.json.decode(encode(OrderEntry((order("a@x.test"),))))
    newer[0][0].append({"new": True})
    newer.append("more")
    assert decode_order_entry(msgspec.json.encode(newer)).orders == (order("a@x.test"),)


def test_older_rows_still_decode() -> None:
    """A claim row without the latest fields has their defaults."""
    row = b'{"state":"open","owner":"i","nonce":"n","start":3}'
    assert decode_claim(row) == Claim("open", "i", "n", 3)


def test_derived_ids_do_not_grow() -> None:
    """However often a unit is parked again, its id stays short, and different from all others."""
    name, seen = "p1", set()
    for _ in range(300):
        name = park_id(name, 0)
        assert len(name) <= 64
        seen.add(name)
    assert len(seen) == 300
    assert derived_id("p1", "/0") == "p1/0"


def test_transmission_ids_are_digits_and_rise() -> None:
    """Also when the clock stands still or steps back, and they tell when they were made."""
    import random

    clock = StandingClock()
    ids = TransmissionIds(clock, random.Random(1))
    made = [ids.new() for _ in range(100)]
    clock.time -= 3600
    made += [ids.new() for _ in range(100)]
    assert all(each.isdigit() for each in made)
    assert [int(each) for each in made] == sorted({int(each) for each in made})
    assert abs(accepted_about(made[0]) - 1_800_000_000.0) < 1

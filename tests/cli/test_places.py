from __future__ import annotations

import random
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from postfleet.accept import UNITS
from postfleet.audit import Pending
from postfleet.backends.local import LocalBackends, open_local
from postfleet.backends.local_inspect import inspect
from postfleet.cli.places import Holding, holdings, pending, whereabouts, with_page, with_reason
from postfleet.clock import SystemClock
from postfleet.park import Park, Parks
from postfleet.ports import Outgoing
from postfleet.settings import Settings
from postfleet.stages import (
    BlobRef,
    Claim,
    Group,
    Manifest,
    Message,
    Order,
    OrderEntry,
    Plan,
    PlannedPark,
    Transmission,
    Unit,
    UnitEntry,
    encode,
    park_id,
)

NOW = 1_000_000.0
TRANSMISSION = Transmission("77", 0, NOW, NOW + 3600, BlobRef("mail/x", 0, 1), "raw", "shop.example")
GROUP = Group(TRANSMISSION, (Message(0, "a@x.example"),))
UNIT = Unit("p77", 0, (GROUP,))
ORDER = Order("p77/0", 0, "default", "127.0.0.11", "gmail", (GROUP,))


@pytest.fixture
async def backends(tmp_path: Path) -> AsyncIterator[LocalBackends]:
    async with await open_local(tmp_path, clock=SystemClock(), visibility=60.0) as opened:
        yield opened


def look(path: Path) -> list[Holding]:
    with inspect(path, SystemClock()) as inspection:
        return holdings(inspection)


def places(found: Sequence[Holding]) -> list[str]:
    return [holding.place for holding in found]


async def put_claim(backends: LocalBackends, state: str) -> None:
    await backends.state.put_if_absent(f"claim/{ORDER.id}", "", encode(Claim(state, "w1", "n", 0)))


async def send_order(backends: LocalBackends) -> None:
    await backends.queue(ORDER.lane).send([Outgoing(encode(OrderEntry((ORDER,))))])


async def test_a_unit_waits_for_the_router(backends: LocalBackends, tmp_path: Path) -> None:
    """What was just accepted is pending in `units`."""
    await backends.queue(UNITS).send([Outgoing(encode(UnitEntry(units=(UNIT,))))])
    assert pending(look(tmp_path)) == [Pending("77.0", "a@x.example", "units")]


@pytest.mark.parametrize("after", [100.0, 100_000.0])
async def test_a_park_is_found_wherever_it_lies(backends: LocalBackends, tmp_path: Path, after: float) -> None:
    """A delayed entry or a row in a bucket, with its due time and the router's reason."""
    clock = SystemClock()
    plan = Plan(NOW, parks=(PlannedPark(NOW, "another", ()), PlannedPark(NOW, "no live binding", (0,))))
    await backends.state.put_if_absent("plan/p77", "", encode(plan))
    park = Park(clock.now() + after, Unit(park_id("p77", 1), 0, (GROUP,), fresh=False))
    await Parks(
        units=backends.queue(UNITS), state=backends.state, clock=clock, settings=Settings(), rng=random.Random(1)
    ).write([park])
    (found,) = [await with_reason(holding, backends.state) for holding in look(tmp_path)]
    assert (found.place, found.reason) == ("park", "no live binding")
    assert park.due - 1 <= found.until <= park.due + 60


@pytest.mark.parametrize(
    ("state", "place"), [("", ["lane"]), ("released", ["lane"]), ("open", ["claim"]), ("done", [])]
)
async def test_the_claim_row_says_how_far_an_order_is(
    backends: LocalBackends, tmp_path: Path, state: str, place: list[str]
) -> None:
    """Nobody's waits in its lane, an open one is claimed, one that is done is a leftover."""
    await send_order(backends)
    if state:
        await put_claim(backends, state)
    assert places(look(tmp_path)) == place


async def test_the_furthest_place_comes_last(backends: LocalBackends, tmp_path: Path) -> None:
    """A unit whose Order was sent but which is not acked yet is in two places; the audit takes the last."""
    await send_order(backends)
    await backends.queue(UNITS).send([Outgoing(encode(UnitEntry(units=(UNIT,))))])
    assert places(look(tmp_path)) == ["units", "lane"]


async def test_pages_are_read(backends: LocalBackends, tmp_path: Path) -> None:
    """The recipients of a large transmission are pending though they stand in no queue entry."""
    page = encode((Message(0, "a@x.example"), Message(1, "b@x.example")))
    await backends.blobs.put("mail/page", page)
    references = (BlobRef("mail/page", 0, len(page)), BlobRef("mail/gone", 0, 1))
    await backends.queue(UNITS).send([Outgoing(encode(UnitEntry(manifests=(Manifest(TRANSMISSION, references),))))])
    found = [await with_page(holding, backends.blobs) for holding in look(tmp_path)]
    assert [each.message_id for each in pending(found)] == ["77.0", "77.1"]


@pytest.mark.parametrize(
    ("holding", "said"),
    [
        (Holding("units", "p1", ()), "in the router's queue, unit p1"),
        (Holding("park", "p1~0", (), until=NOW - 1, reason="greylisted"), "parked and due, unit p1~0: greylisted"),
        (
            Holding("lane", "p1/0", (), lane="gmail", binding="ip"),
            "waits in lane gmail for a worker, to go by ip,",
        ),
        (Holding("claim", "p1/0", (), lane="gmail", owner="w"), "claimed in lane gmail by worker incarnation w"),
    ],
)
def test_places_in_words(holding: Holding, said: str) -> None:
    """Each kind of place is told with what identifies it."""
    assert whereabouts(holding, NOW).startswith(said)


def test_a_park_is_told_with_its_time() -> None:
    """When it is due, and how long that is from now."""
    assert "(in 3 min 20 s), unit p1~0" in whereabouts(Holding("park", "p1~0", (), until=NOW + 200), NOW)

from __future__ import annotations

import pytest

from bench import mixes
from bench.bill import Bill, Budget, bill_of
from bench.metered import Meter
from bench.metered_platform import Load, Make, simulate
from postfleet.settings import ON_AWS


@pytest.mark.parametrize(
    ("make", "most_calls", "most_dollars"), [(mixes.campaign, 0.5, 0.5), (mixes.transactional, 8.0, 6.0)]
)
def test_what_a_message_costs_stays_in_its_range(make: Make, most_calls: float, most_dollars: float) -> None:
    """At a low rate, for a short time: steady state and budgets are `bench/cost.py`'s affair."""
    rate, seconds = 200.0, 10.0
    meter, measured = simulate(ON_AWS, Load(make=make, rate=rate), 5.0, seconds)
    bill = bill_of("mix", rate, rate * seconds, measured.taken, meter, None)
    assert measured.warnings == {}
    assert 0.05 < bill.calls < most_calls
    assert 0.05 < bill.dollars < most_dollars
    assert measured.taken > 0.8 * rate * seconds


def test_the_same_run_costs_the_same() -> None:
    """Nothing but the seed decides."""
    load = Load(make=mixes.transactional, rate=20.0)
    first, second = (simulate(ON_AWS, load, 2.0, 3.0)[0] for _ in range(2))
    assert first.calls == second.calls


@pytest.mark.parametrize(
    ("budget", "over"),
    [(None, False), (Budget(None, 1.0), False), (Budget(0.3, 1.0), True), (Budget(0.6, 0.1), True)],
)
def test_a_budget_holds_or_not(budget: Budget | None, over: bool) -> None:
    """By dollars, and by calls where they are bounded."""
    bill = Bill("mix", 1000.0, 1.0, calls=0.5, dollars=0.5, items=(), budget=budget)
    assert bill.over_budget is over


def test_nothing_counted_costs_nothing() -> None:
    """The meter starts switched off."""
    assert bill_of("mix", 1.0, 1.0, 1, Meter(), None).dollars == 0

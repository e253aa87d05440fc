"""What was counted, a message."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

from msgspec import Struct, structs

from bench.metered import Line, Meter

MILLION = 1e6


class Budget(Struct, frozen=True):
    """`calls` a message, None for any number; `dollars` a million messages."""

    calls: float | None
    dollars: float


BUDGETS = {"campaign": Budget(0.3, 0.50), "transactional": Budget(None, 2.50)}
"""At 1,000 messages a second."""


class Item(Struct, frozen=True):
    """Of one message."""

    operation: str
    about: str
    processes: str
    calls: float
    units: float
    dollars: float
    """A million messages."""


class Bill(Struct, frozen=True):
    mix: str
    rate: float
    taken: float
    """Share of the accepted messages that were delivered meanwhile: 1 in steady state."""
    calls: float
    dollars: float
    items: tuple[Item, ...]
    """The dearest first."""
    budget: Budget | None

    @property
    def over_budget(self) -> bool:
        if self.budget is None:
            return False
        return self.dollars > self.budget.dollars or self.calls > (self.budget.calls or self.calls)

    def as_record(self) -> dict[str, Any]:
        return structs.asdict(self) | {
            "items": [structs.asdict(item) for item in self.items],
            "budget": structs.asdict(self.budget) if self.budget else None,
        }


def bill_of(mix: str, rate: float, messages: float, taken: int, meter: Meter, budget: Budget | None) -> Bill:
    groups: defaultdict[tuple[str, str], list[Line]] = defaultdict(list)
    for line in meter.calls:
        groups[line.operation, line.about].append(line)
    items = [_item(name, about, lines, meter, messages) for (name, about), lines in groups.items()]
    items.sort(key=lambda item: (-item.dollars, -item.calls))
    return Bill(
        mix=mix,
        rate=rate,
        taken=taken / messages,
        calls=sum(item.calls for item in items),
        dollars=sum(item.dollars for item in items),
        items=tuple(items),
        budget=budget,
    )


def _item(operation: str, about: str, lines: list[Line], meter: Meter, messages: float) -> Item:
    return Item(
        operation,
        about,
        "+".join(sorted({line.process for line in lines})),
        sum(meter.calls[line] for line in lines) / messages,
        sum(meter.units[line] for line in lines) / messages,
        sum(meter.dollars[line] for line in lines) / messages * MILLION,
    )


def table(bill: Bill) -> str:
    figures = f"{bill.calls:.3f} calls a message, {bill.dollars:.3f} dollars a million messages"
    lines = [
        f"{bill.mix} at {bill.rate:g}/s: {figures}{_verdict(bill)} ({bill.taken:.0%} delivered meanwhile)",
        f"  {'operation':30}{'about':12}{'by':30}{'calls':>9}{'units':>9}{'dollars':>9}",
    ]
    lines += [
        f"  {item.operation:30}{item.about:12}{item.processes:30}{item.calls:9.4f}{item.units:9.4f}{item.dollars:9.4f}"
        for item in bill.items
    ]
    return "\n".join(lines) + "\n"


def _verdict(bill: Bill) -> str:
    if bill.budget is None:
        return ""
    return ", OVER BUDGET" if bill.over_budget else ", within budget"

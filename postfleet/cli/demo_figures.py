"""What the demo counts, from events. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import Struct, field

from postfleet.cli.story import end_of
from postfleet.stages import DELIVERED, Event


class Figures(Struct):
    """Of the events so far."""

    injected: int = 0
    deferred: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    """Messages by terminal state."""
    delivered_by: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Messages by (pool, sending IP)."""
    latencies: list[float] = field(default_factory=list)
    """From acceptance to delivery, seconds."""
    first_attempt_latencies: list[float] = field(default_factory=list)
    first: float = float("inf")
    last: float = 0.0

    @property
    def seconds(self) -> float:
        """From the first acceptance to the last end."""
        return max(0.0, self.last - self.first)


def count(events: Iterable[Event]) -> Figures:
    """Each event once."""
    figures = Figures()
    tried_before: set[str] = set()
    deliveries: list[Event] = []
    for event in events:
        if event.type == "injection":
            figures.injected += 1
            figures.first = min(figures.first, event.timestamp)
        elif event.type in ("delay", "rebind"):
            figures.deferred += event.type == "delay"
            tried_before.add(event.message_id)
        if end := end_of(event):
            figures.ended[end] += 1
            figures.last = max(figures.last, event.timestamp)
        if end == DELIVERED:
            deliveries.append(event)
    _count_deliveries(figures, deliveries, tried_before)
    return figures


def _count_deliveries(figures: Figures, deliveries: Iterable[Event], tried_before: set[str]) -> None:
    for event in deliveries:
        latency = event.timestamp - event.injection_time
        figures.delivered_by[event.ip_pool, event.sending_ip] += 1
        figures.latencies.append(latency)
        if event.message_id not in tried_before:
            figures.first_attempt_latencies.append(latency)


def percentile(values: Sequence[float], share: float) -> float:
    """The least value that is not below `share` of all (nearest rank); 0 of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)] if ordered else 0.0


def rows(figures: Figures, accepted: int) -> list[tuple[str, str]]:
    """The demo's table."""
    total, first = figures.latencies, figures.first_attempt_latencies
    return [
        ("accepted", str(accepted)),
        *((f"  {state}", str(number)) for state, number in sorted(figures.ended.items())),
        ("temporary refusals on the way", str(figures.deferred)),
        *((f"delivered by {ip}, pool {pool}", str(n)) for (pool, ip), n in sorted(figures.delivered_by.items())),
        ("from first acceptance to last end", f"{figures.seconds:.1f} s"),
        (
            "messages a second, waits for retries included",
            f"{accepted / figures.seconds:.0f}" if figures.seconds else "-",
        ),
        ("acceptance to delivery, p50 / p99", _both(total)),
        ("  of those delivered at the first attempt", _both(first)),
    ]


def _both(values: Sequence[float]) -> str:
    return f"{percentile(values, 0.5):.3f} s / {percentile(values, 0.99):.3f} s"

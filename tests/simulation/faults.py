"""How often what goes wrong, and what became of one call."""

from __future__ import annotations

import random

from msgspec import Struct

OK = "ok"
FAILED = "failed"
"""`Unavailable`, without effect."""
LOST = "lost"
"""Takes effect, but the reply is lost: `Unavailable`."""
LATE = "late"
"""`Unavailable`, and the effect comes seconds later."""
PARTIAL = "partial"
"""Part of a batch takes effect: `Unavailable`."""


class Faults(Struct, frozen=True, kw_only=True):
    """Rates are per call, entry, dial or segment; pairs are ranges of seconds."""

    latency: tuple[float, float] = (0.001, 0.02)
    slow: float = 0.0
    """Share of calls that take `slow_by` longer."""
    slow_by: tuple[float, float] = (0.5, 10.0)
    failed: float = 0.0
    lost: float = 0.0
    late: float = 0.0
    late_by: tuple[float, float] = (1.0, 40.0)
    partial: float = 0.0
    """Of batches of more than one."""
    throttled: float = 0.0
    """Share of calls at which a process is throttled on that port for `throttled_for`."""
    throttled_for: tuple[float, float] = (0.2, 5.0)
    duplicated: float = 0.0
    """Of received entries: a second copy, with a receipt of its own, appears within `duplicated_after`."""
    duplicated_after: tuple[float, float] = (0.0, 120.0)
    jitter: tuple[float, float] = (0.0, 0.5)
    """Added to the delay of every entry sent."""
    refused: float = 0.0
    cut: float = 0.0
    """Of segments between worker and MX."""
    split: float = 0.3
    """Of segments: delivered in two pieces."""

    def fate(self, rng: random.Random, *, write: bool, batch: int) -> str:
        if not (self.failed or self.lost or self.late or self.partial):
            return OK
        drawn = rng.random()
        for fate, rate in ((FAILED, self.failed), (LOST, self.lost), (LATE, self.late), (PARTIAL, self.partial)):
            if drawn < rate:
                return _possible(fate, write, batch)
            drawn -= rate
        return OK


CALM = Faults()
"""Nothing fails; replies still take their time."""
ROUGH = Faults(
    slow=0.01,
    failed=0.02,
    lost=0.02,
    late=0.01,
    partial=0.05,
    throttled=0.003,
    duplicated=0.05,
    refused=0.02,
    cut=0.01,
)


def _possible(fate: str, write: bool, batch: int) -> str:
    if fate == PARTIAL and batch < 2:
        return OK
    return FAILED if fate == LATE and not write else fate

"""What one seed runs: the platform, a load, faults, healing, and the audit of what became of the mail."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct
from simulation.world import World


class Report(Struct):
    seed: int
    violations: list[str]
    world: World


def run_seed(seed: int, breaks: Collection[str] = ()) -> Report:
    """Deterministic: equal seeds and breaks give equal traces."""
    raise NotImplementedError


BREAKS: tuple[str, ...] = ()
"""Rules of the protocol that can be taken out, each of which must then be caught."""

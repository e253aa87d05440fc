"""Time, passed in everywhere so that the simulation can own it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def now(self) -> float:
        """Wall clock, Unix seconds. Labels things and compares with absolute expiry; decides no ownership."""
        ...

    def mono(self) -> float:
        """Seconds that never step and that count while the machine sleeps (CLOCK_BOOTTIME)."""
        ...


class SystemClock:
    def now(self) -> float:
        return time.time()

    def mono(self) -> float:
        return time.clock_gettime(time.CLOCK_BOOTTIME)

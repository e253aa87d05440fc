"""Names that processes make up."""

from __future__ import annotations

import random

from postfleet.clock import Clock

_PROCESS_BITS = 24


class TransmissionIds:
    """Transmission ids: decimal digits, ascending in time, unique over all processes.

    Microseconds since 1970 (strictly rising within a process, whatever the
    wall clock does) followed by 24 random bits of the process.
    """

    def __init__(self, clock: Clock, rng: random.Random) -> None:
        self._clock = clock
        self._process = rng.getrandbits(_PROCESS_BITS)
        self._last = 0

    def new(self) -> str:
        self._last = max(self._last + 1, int(self._clock.now() * 1e6))
        return str(self._last << _PROCESS_BITS | self._process)


def accepted_about(transmission: str) -> float:
    """When a transmission id was made, Unix seconds. Raises `ValueError` for what is no such id."""
    return (int(transmission) >> _PROCESS_BITS) / 1e6


def nonce(rng: random.Random) -> str:
    """96 random bits: marks a row as written by this very call."""
    return f"{rng.getrandbits(96):024x}"
